"""Column names used by published data sets (GLUE, CLUE, XNLI, SNLI, LCQMC, PAWS and similar), in lower case."""

# First and second text of a pair; the first entry with both names present wins.
PAIRS = (
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("premise", "hypo"),
    ("#1 string", "#2 string"),
    ("query1", "query2"),
    ("sentence_a", "sentence_b"),
    ("text1", "text2"),
    ("sent1", "sent2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "title"),
    ("keyword", "abst"),
    ("question", "answer"),
)
SINGLES = ("text_a", "sentence", "text", "review", "content", "comment", "question", "query", "sentence1")
LABELS = (
    "label", "labels", "gold_label", "class", "category", "is_duplicate", "quality", "similar", "similarity", "is_same",
    "sentiment", "target", "polarity", "class index", "star_rating",
    "stars", "rating", "intent", "emotion", "stance",
)  # fmt: skip
# Columns that are neither text nor label. pandas writes an index column as '' or 'Unnamed: 0'.
OTHERS = (
    "", "unnamed: 0", "id", "idx", "index", "guid", "uid", "qid", "qid1", "qid2", "pairid", "promptid", "#1 id",
    "#2 id", "genre", "filename", "year", "old_index", "source", "source1", "source2", "language", "level", "match",
    "label_des", "label_desc", "label1", "label2", "label3", "label4", "label5", "annotator_labels", "keywords",
    "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse", "sentence1_tokenized",
    "sentence2_tokenized", "score",
)  # fmt: skip
KNOWN = frozenset((*SINGLES, *LABELS, *OTHERS, *(name for pair in PAIRS for name in pair)))

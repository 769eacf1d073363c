"""albert_fast.data.sentencepiece: Google's and HuggingFace's model files give the ids that ALBERT was trained with."""

import io
import json
import unicodedata

import pytest
import transformers

from albert_fast.cli import main
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.shards import read_documents
from albert_fast.options import UserError

spm = pytest.importorskip("sentencepiece")

AWKWARD = [
    "The Function RETURNS  a value, or None.",
    "``quoted'' text and 'single' ones",
    "Élan naïve ﬁne ½ Ⅷ e\u0301 Å İ ß Σς",
    "9,9 and 19,000; 3.14, 7, 1,234,567,",
    " leading, trailing and\ttab\u3000wide\u00a0no-break ",
    "x☃y ☃☃ 日本語 가나 \u2581a \u2581",
    "(parens) a(b) ) - £5 (",
    "zero\u200bwidth\u00adsoft\u0007bell",
    "",
    " ",
]


def train(folder, name, **options):
    """A unigram model of a Python manual's text, as ALBERT's was trained: specials, dummy prefix, nmt_nfkc_cf."""
    from pydoc_data.topics import topics

    model = io.BytesIO()
    sentences = [line.lower() for text in topics.values() for line in text.split("\n")[::3] if line.strip()]
    sentences += [f"in {i % 10}, {i % 7} and {i % 10}, of {10 * i}," for i in range(2000)]
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, vocab_size=400, minloglevel=2, **options,
        pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, pad_piece="<pad>", control_symbols=["[CLS]", "[SEP]", "[MASK]"],
    )  # fmt: skip
    folder.mkdir()
    (folder / name).write_bytes(model.getvalue())
    return folder


@pytest.fixture(scope="module")
def huggingface(tmp_path_factory):
    return train(tmp_path_factory.mktemp("spm") / "hf", "spiece.model")


@pytest.fixture(scope="module")
def google(tmp_path_factory):
    """With pieces of a digit and a comma, and with brackets that are pieces of their own, as in Google's."""
    numbers = ["1,", "9,", "\u25817,"]
    return train(
        tmp_path_factory.mktemp("spm") / "g", "30k-clean.model", user_defined_symbols=["(", ")", "-", *numbers]
    )


def test_ids_are_huggingfaces(huggingface):
    ours, theirs = load_tokenizer(huggingface), transformers.AlbertTokenizer.from_pretrained(huggingface)
    for line in AWKWARD:
        assert ours.encode(line) == theirs.encode(line, add_special_tokens=False), line
    assert ours.encode_pair("a b", "c", 16)[0] == theirs("a b", "c")["input_ids"]
    assert ours.special_names == ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]


def albert_pieces(model, text):
    """What google-research/albert's tokenization.py does, from its description."""
    text = unicodedata.normalize("NFKD", " ".join(text.split()).replace("``", '"').replace("''", '"'))
    text = "".join(c for c in text if not unicodedata.combining(c)).lower()
    pieces = []
    for piece in model.encode(text, out_type=str):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            parts = model.encode(piece[:-1].replace("\u2581", ""), out_type=str)
            if piece[0] != "\u2581" and parts[0][0] == "\u2581":
                parts = parts[1:] if len(parts[0]) == 1 else [parts[0][1:], *parts[1:]]
            pieces += [*parts, ","]
        else:
            pieces.append(piece)
    return [model.piece_to_id(piece) for piece in pieces]


def test_ids_are_googles_where_digits_meet_commas(google):
    model = spm.SentencePieceProcessor(model_file=str(google / "30k-clean.model"))
    tokenizer = load_tokenizer(google)
    assert [token for token in tokenizer.tokens if token[-1:] == "," and token[-2:-1].isdigit()]
    for line in AWKWARD:
        assert tokenizer.encode(line) == albert_pieces(model, line), line
    assert "9," not in [tokenizer.tokens[i] for i in tokenizer.encode("9,9")]


def test_the_config_beside_it_decides_case_and_accents(huggingface, tmp_path):
    (tmp_path / "spiece.model").write_bytes((huggingface / "spiece.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "keep_accents": true}')
    theirs = transformers.AlbertTokenizer.from_pretrained(tmp_path)
    for line in AWKWARD:
        assert load_tokenizer(tmp_path).encode(line) == theirs.encode(line, add_special_tokens=False), line


def test_words_begin_at_the_marker_and_unknowns_are_counted(huggingface):
    tokenizer = load_tokenizer(huggingface)
    ids, starts, lengths, unknown = tokenizer.encode_lines(["Functions returned, ☃x", "", "[MASK] a"])
    tokens = [tokenizer.tokens[i] for i in ids]
    assert [token for token, begins in zip(tokens, starts, strict=True) if begins][:2] == [
        "\u2581function",
        "\u2581return",
    ]
    assert (
        starts.tolist() == [token.startswith("\u2581") or i == 0 for i, token in enumerate(tokens)] or "<unk>" in tokens
    )
    assert lengths[1] == 0
    assert unknown["☃"] == 1
    assert tokenizer.mask_id not in ids.tolist()


def test_what_is_no_unigram_model_is_refused(tmp_path, huggingface):
    content = (huggingface / "spiece.model").read_bytes()
    vocabulary = "".join(f"{token}\t{-i / 3}\n" for i, token in enumerate(["<pad>", "<unk>", "[CLS]", "\u2581a"]))
    bpe = train(tmp_path / "bpe", "spiece.model", model_type="bpe") / "spiece.model"
    cases = [
        ("cut.model", content[:-7], "damaged, or not a SentencePiece model"),
        ("spiece.vocab", vocabulary.encode(), r"give the \.model"),
        ("bpe.model", bpe.read_bytes(), "of type BPE"),
    ]
    for name, data, message in cases:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=message):
            load_tokenizer(tmp_path / name)


@pytest.mark.slow
def test_prepare_pretrain_fill_mask_and_export_round_trip(tmp_path, huggingface, capsys):
    (tmp_path / "a.txt").write_text("The function returns a value.\nThe value is none, or a list.\n\n" * 300)
    sizes = {"embedding_size": 8, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = {**sizes, "num_hidden_layers": 1, "max_position_embeddings": 64, "vocab_size": 400, "layout": "google"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    data, run, exported = (str(tmp_path / name) for name in ("data", "run", "hf"))
    main(
        ["prepare", "--input", str(tmp_path / "a.txt"), "--vocab", str(huggingface), "--output", data, "--workers", "1"]
    )
    tokenizer = load_tokenizer(huggingface)
    sentence = next(iter(read_documents(data)))[0]
    assert sentence.ids.tolist() == tokenizer.encode("the function returns a value.")
    settings = ["--max_steps", "2", "--warmup_steps", "1", "--tokens_per_batch", "256", "--max_seq_length", "32"]
    main(["pretrain", "--data", data, "--output", run, "--config", str(tmp_path / "config.json"), *settings])
    capsys.readouterr()
    main(["fill-mask", "--model", run, "--text", "the [MASK] returns", "--json"])
    filled = json.loads(capsys.readouterr().out)
    assert "the" in json.dumps(filled)
    main(["convert", run, "--to", "huggingface", "--output", exported])
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    for line in AWKWARD:
        assert theirs(line)["input_ids"] == tokenizer.encode_pair(line, None, 64)[0], line
    assert (theirs.mask_token_id, theirs.pad_token_id) == (tokenizer.mask_id, tokenizer.pad_id)
    assert transformers.AutoModel.from_pretrained(exported).config.vocab_size == 400

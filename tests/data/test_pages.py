"""Encoded chunks to pages: lines over two chunks are one, documents are told apart, and nothing grows too long."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from albert_fast.data.pages import EncodedChunk, PageBuilder
from albert_fast.data.shards import MAX_PAGE_TOKENS, MAX_SENTENCE_TOKENS


def chunk(lengths: list[int], blank: tuple[int, ...] = (), first: int = 0) -> EncodedChunk:
    """Lines of so many tokens, numbered from `first`, of which those at `blank` end a document."""
    is_blank = np.isin(np.arange(len(lengths)), blank)
    ids = np.arange(first, first + sum(lengths), dtype=np.int32)
    return EncodedChunk(ids, np.ones(len(ids), np.bool_), np.array(lengths, np.int64), is_blank)


def blanks_of(lengths: list[int]) -> tuple[int, ...]:
    return tuple(i for i, tokens in enumerate(lengths) if tokens == 0)


def test_a_line_over_two_chunks_is_one_sentence_and_blank_lines_end_documents():
    pages = PageBuilder()
    assert not list(pages.add(chunk([2, 0, 3], blank=(1,)), inside_line=False, ends_line=False))
    assert pages.document_is_open
    assert not list(pages.add(chunk([4, 1, 0], blank=(2,), first=5), inside_line=True, ends_line=True))
    assert not pages.document_is_open
    assert (pages.num_tokens, pages.num_sentences) == (10, 3)
    (page,) = pages.flush()
    assert page.lengths.tolist() == [2, 7, 1]
    assert page.first_of_document.tolist() == [True, True, False]
    assert page.ids.tolist() == list(range(10))
    assert not list(pages.flush())


@pytest.mark.parametrize(("documents", "expected"), [([40_000, 20_000, 30_000], [60_000, 30_000]), ([70_000], None)])
def test_a_page_holds_whole_documents_while_they_fit(documents, expected):
    pages, made = PageBuilder(), []
    for tokens in documents:
        made += pages.add(chunk([1000] * (tokens // 1000) + [0], blank=(tokens // 1000,)), False, True)
    made += pages.flush()
    sizes = [len(page.ids) for page in made]
    whole = MAX_PAGE_TOKENS // 1000 * 1000
    assert sizes == (expected or [whole, documents[0] - whole])
    assert [bool(page.first_of_document[0]) for page in made] == [True, expected is not None]


def test_a_document_that_goes_on_from_an_earlier_page_ends_its_pages_at_the_limit():
    pages = PageBuilder()
    made = [*pages.add(chunk([30_000] * 3), False, True)]
    made += [*pages.add(chunk([30_000, 30_000, 0, 1], blank=(2,)), False, True), *pages.flush()]
    assert [page.lengths.tolist() for page in made] == [[30_000] * 2, [30_000] * 2, [30_000, 1]]


def test_a_sentence_too_long_is_cut_and_begins_one_document():
    pages = PageBuilder()
    made = [*pages.add(chunk([MAX_SENTENCE_TOKENS + 5]), False, True), *pages.flush()]
    (page,) = made
    assert page.lengths.tolist() == [MAX_SENTENCE_TOKENS, 5]
    assert page.first_of_document.tolist() == [True, False]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_chunks_may_end_anywhere(data):
    """The pages of lines that are cut into chunks, at their ends or inside, are those of all lines in one chunk."""
    lines = data.draw(st.lists(st.sampled_from([0, 1, 2, 30_000, MAX_SENTENCE_TOKENS + 3]), min_size=1, max_size=12))
    whole, parts = PageBuilder(), PageBuilder()
    expected = [*whole.add(chunk(lines, blanks_of(lines)), False, True), *whole.flush()]
    pages, first, pending, inside_line = [], 0, [], False
    for tokens in lines:
        head = data.draw(st.integers(0, tokens)) if tokens > 1 and data.draw(st.booleans()) else 0
        if head:
            pages += parts.add(chunk([*pending, head], blanks_of(pending), first), inside_line, False)
            first, pending, inside_line = first + sum(pending) + head, [], True
        pending.append(tokens - head)
        if data.draw(st.booleans()):
            pages += parts.add(chunk(pending, blanks_of(pending), first), inside_line, True)
            first, pending, inside_line = first + sum(pending), [], False
    if pending:
        pages += parts.add(chunk(pending, blanks_of(pending), first), inside_line, True)
    pages += parts.flush()
    assert len(pages) == len(expected)
    for ours, theirs in zip(pages, expected, strict=True):
        for name in ("ids", "word_starts", "lengths", "first_of_document"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name

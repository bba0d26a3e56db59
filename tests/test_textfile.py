"""Text as people's programs write it: any usual encoding, any line end."""

import pytest

from bridge.textfile import EncodingError, decode, split_lines

TEXT = "file_name,caption\na.png,un café près d'une forêt\nb.png,plain\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", [TEXT, "file_name,caption\na.png,赤い車 и красный дом שלום\n", "a cat\n", "", "x"])
def test_unicode_is_read_with_and_without_its_mark(text, encoding):
    assert decode(text.encode(encoding))[0] == text


@pytest.mark.parametrize(
    "text",
    ["été", "niño", "L'ÉTÉ À LA MER", "a “red” car — nice…", "½ cup, 20 €", "smørrebrød på en ø", "Größe", "¿qué?"],
)
def test_western_exports_are_read_and_told(text):
    assert decode(text.encode("cp1252")) == (text, "cp1252")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *[("красный дом", name) for name in ("cp1251", "koi8-r")],
        *[("赤い車", name) for name in ("shift_jis", "euc-jp")],
        *[
            ("红色的汽车", "gb18030"),
            ("κόκκινο σπίτι", "cp1253"),
            ("żółty kot", "cp1250"),
            ("un café à Zürich", "mac_roman"),
        ],
    ],
)
def test_what_would_only_be_guessed_is_refused_with_the_remedy(text, encoding):
    with pytest.raises(EncodingError, match=r"it is not UTF-8.* \(line 2\); save it as UTF-8"):
        decode(f"file_name,caption\na.png,{text}\n".encode(encoding))


def test_utf8_with_broken_bytes_is_not_taken_for_another_encoding():
    with pytest.raises(EncodingError, match="line 2"):
        decode("a café, a forêt\n".encode() + b"caf\xe9")


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_every_line_end_ends_a_line(end):
    assert split_lines(end.join(["a", "", "b", ""])) == ["a", "", "b"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_nothing_else_ends_a_line(mark):
    assert split_lines(f"a{mark}b\nc") == [f"a{mark}b", "c"]

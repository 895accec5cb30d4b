"""Write unicode_tables.h and normal_form_tables.h: characters as the `tokenizers` library knows them.

The library is asked, not a Unicode version of our own: its regular expressions, its digits, its grapheme clusters and
its normal forms follow different versions of Unicode. Only the order of combining marks comes from this interpreter,
which Unicode never changes; the library is asked whether it knows them.

    python runtime_bench/engine/tokenizer/make_unicode_tables.py
"""

from __future__ import annotations

import struct
import sys
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

CLASSES = Path(__file__).with_name("unicode_tables.h")
FORMS = Path(__file__).with_name("normal_form_tables.h")
CHARACTERS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
STEP = 4096


def matching(pattern: str) -> set[int]:
    """Code points that a one-character regular expression of the library matches."""
    split = pre_tokenizers.Split(Regex(pattern), behavior="removed")
    found: set[int] = set()
    for start in range(0, len(CHARACTERS), STEP):
        codes = CHARACTERS[start : start + STEP]
        kept = {ord(c) for piece, _ in split.pre_tokenize_str("".join(map(chr, codes))) for c in piece}
        found.update(code for code in codes if code not in kept)
    return found


def digits() -> set[int]:
    """Code points that the library's Digits splits off."""
    split = pre_tokenizers.Digits(individual_digits=True)
    found: set[int] = set()
    for start in range(0, len(CHARACTERS), STEP):
        text = "".join("a" + chr(code) for code in CHARACTERS[start : start + STEP])
        found.update(ord(piece) for piece, _ in split.pre_tokenize_str(text) if len(piece) == 1 and piece != "a")
    return found


def word_characters() -> set[int]:
    r"""Code points that are \w where the library looks for single words: it finds no single word behind them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_tokens([AddedToken("!", single_word=True, normalized=False)])
    return {code for code in CHARACTERS if not tokenizer.encode(chr(code) + "!").ids}


class Clusters:
    """Asks for grapheme clusters: a character map that replaces whatever begins with any byte by one letter.

    The library looks up clusters of less than six bytes as a whole and the others by character, so that the length of
    what comes out tells the two apart. Longer clusters need no telling.
    """

    def __init__(self) -> None:
        root, leaf = 256, 512  # of a double array: unit 0 leads to 256 ^ byte, each of which leads to the leaf
        units = [0] * 768
        units[0] = root << 10
        for byte in range(1, 256):
            units[root ^ byte] = (root ^ byte ^ leaf) << 10 | 1 << 8 | byte
        units[leaf] = 1 << 31
        trie = b"".join(struct.pack("<I", unit) for unit in units)
        self._map = normalizers.Precompiled(struct.pack("<I", len(trie)) + trie + b"q\0")

    def count(self, text: str) -> int:
        """Lookups that the library makes for a text."""
        return len(self._map.normalize_str(text))

    def where(self, before: str, after: str, count: int) -> set[int]:
        """Code points that give as many lookups between two texts."""
        return {code for code in CHARACTERS if self.count(before + chr(code) + after) == count}

    def tables(self) -> list[tuple[str, str, set[int]]]:
        """Name, comment and code points of each class. Four-byte controls are left out: nothing short holds them."""
        attaching = self.where("x", "", 1)
        short = {code for code in CHARACTERS if code < 0x10000} - attaching
        controls = {code for code in short if self.count(chr(code) + "\u0301") == 2}
        pictures = self.where("\xa9\u200d", "", 3) - attaching
        joined = "\u0915\u094d"  # a consonant and a linker, to which a consonant with a mark is joined
        consonants = {code for code in short if code > 0x7FF and self.count(joined + chr(code) + "\u0301") == 4}
        linkers = {code for code in attaching if self.count("\u0915" + chr(code) + "\u0915\u0301") == 4}
        extending = self.where("\xa9", "\u200d\xa9\u0301", 5) & attaching
        return [
            ("kAttaching", "What a grapheme cluster goes on with.", attaching),
            ("kPrepending", "What begins a grapheme cluster with whatever follows.", self.where("", "x", 1)),
            ("kControls", "What stands alone.", controls),
            ("kExtending", "What may stand between a picture and its zero-width joiner.", extending),
            ("kPictures", "What a zero-width joiner joins.", pictures),
            ("kConsonants", "What a linker joins.", consonants),
            ("kLinkers", "What joins consonants.", linkers),
        ]


def marks() -> set[int]:
    """Code points that the library's StripAccents leaves out."""
    strip = normalizers.StripAccents()
    return {code for code in CHARACTERS if not strip.normalize_str(chr(code))}


def lowercase() -> dict[int, int]:
    """Code points that have another lower case, of one code point; U+0130 alone has two."""
    lower = normalizers.Lowercase()
    found = {code: lower.normalize_str(chr(code)) for code in CHARACTERS}
    changed = {code: text for code, text in found.items() if text != chr(code)}
    assert changed.pop(0x130) == "i\u0307"
    return {code: ord(text) for code, text in changed.items()}


def steps(mapped: dict[int, int]) -> list[tuple[int, int, int, int]]:
    """Runs of code points that are as far from what they become, as (first, last, step, distance)."""
    runs: list[tuple[int, int, int, int]] = []
    for code, to in sorted(mapped.items()):
        if runs:
            first, last, step, distance = runs[-1]
            if to - code == distance and (code - last == step or (first == last and code - last == 2)):
                runs[-1] = (first, code, code - last, distance)
                continue
        runs.append((code, code, 1, to - code))
    return runs


def decompositions(form: normalizers.Normalizer, known: dict[int, str]) -> dict[int, str]:
    """What a decomposing normal form makes of code points, where that is not known; Hangul syllables follow a rule."""
    found = {}
    for code in CHARACTERS:
        text = form.normalize_str(chr(code))
        if text != known.get(code, chr(code)) and not 0xAC00 <= code < 0xD7A4:
            found[code] = text
    return found


def combining_classes() -> dict[int, int]:
    """Classes of the combining marks that the library knows."""
    form, found = normalizers.NFD(), {}
    for code in CHARACTERS:
        mark = chr(code)
        order = unicodedata.combining(mark)
        # A mark of the lowest class goes before another, and one of the next behind it.
        other = "\u0334" if order != 1 else "\u3099"
        text = mark + other if order != 1 else other + mark
        reordered = form.normalize_str(text) != form.normalize_str(text[0]) + text[1]
        assert order or not reordered or form.normalize_str(mark) != mark, hex(code)
        if order and reordered:
            found[code] = order
    return found


def compositions(canonical: dict[int, str]) -> dict[tuple[int, int], int]:
    """Pairs that the library's normal form C joins."""
    form, found = normalizers.NFC(), {}
    for code, text in canonical.items():
        first = form.normalize_str(text[:-1])
        if len(first) == 1 and form.normalize_str(first + text[-1]) == chr(code):
            found[ord(first), ord(text[-1])] = code
    return found


def ranges(codes: set[int]) -> list[tuple[int, int]]:
    """Runs of neighbours as (first, last)."""
    runs: list[tuple[int, int]] = []
    for code in sorted(codes):
        if runs and runs[-1][1] == code - 1:
            runs[-1] = (runs[-1][0], code)
        else:
            runs.append((code, code))
    return runs


def table(name: str, comment: str, codes: set[int]) -> str:
    """One C++ array."""
    lines, line = [], "   "
    for first, last in ranges(codes):
        entry = f" {{0x{first:X}, 0x{last:X}}},"
        if len(line) + len(entry) > 120:
            lines.append(line)
            line = "   "
        line += entry
    return f"// {comment}\nconstexpr CodeRange {name}[] = {{\n" + "\n".join([*lines, line]) + "\n};\n"


def lines_of(entries: list[str]) -> str:
    """Entries of an initializer in lines of 120 characters."""
    lines, line = [], "   "
    for entry in entries:
        if len(line) + len(entry) > 118:
            lines.append(line)
            line = "   "
        line += f" {entry},"
    return "\n".join([*lines, line])


def array(declaration: str, comment: str, entries: list[str]) -> str:
    """One C++ array of anything."""
    return f"// {comment}\nconstexpr {declaration}[] = {{\n{lines_of(entries)}\n}};\n"


def decomposition_arrays(name: str, comment: str, found: dict[int, str]) -> list[str]:
    """Code points, where the text of each begins, and the texts behind each other as UTF-8."""
    begins, at, texts = [], 0, []
    for text in found.values():
        begins.append(str(at))
        at += len(text.encode())
        texts.append(text)
    literals = ["".join(f"\\x{byte:02X}" for byte in text.encode()) for text in texts]
    rows, row = [], ""
    for literal in literals:
        if len(row) + len(literal) > 108:
            rows.append(f'    "{row}"')
            row = ""
        row += literal
    content = "\n".join([*rows, f'    "{row}"'])
    return [
        array(f"uint32_t {name}", comment, [f"0x{code:X}" for code in found]),
        array(f"uint16_t {name}Begins", "Where the text of each begins.", [*begins, str(at)]),
        f"// The texts.\nconstexpr char {name}Texts[] =\n{content};\n",
    ]


def classes_header() -> str:
    """The whole of unicode_tables.h."""
    tables = [
        table("kLetters", r"\p{L} of the library's regular expressions.", matching(r"\p{L}")),
        table("kNumbers", r"\p{N} of the library's regular expressions.", matching(r"\p{N}")),
        table("kSpaces", r"\s of the library's regular expressions.", matching(r"\s")),
        table("kDigits", "What the library's Digits splits off.", digits()),
        table("kWords", r"\w where the library looks for single words.", word_characters()),
        table("kMarks", "What the library's StripAccents leaves out.", marks()),
        *(table(name, comment, codes) for name, comment, codes in Clusters().tables()),
    ]
    return wrapped("struct CodeRange {\n    uint32_t first, last;\n};\n", tables)


def forms_header() -> str:
    """The whole of normal_form_tables.h."""
    canonical = decompositions(normalizers.NFD(), {})
    compatible = decompositions(normalizers.NFKD(), canonical)
    # Syllables of Hangul are decomposed and composed by a rule.
    orders = combining_classes()
    pairs = sorted(compositions(canonical).items())
    runs = [
        run
        for order in sorted(set(orders.values()))
        for run in ((first, last, order) for first, last in ranges({c for c, o in orders.items() if o == order}))
    ]
    tables = [
        *decomposition_arrays("kCanonical", "What the normal form D decomposes.", canonical),
        *decomposition_arrays("kCompatible", "What the normal form KD decomposes otherwise.", compatible),
        array("OrderRange kOrders", "Combining classes.", [f"{{0x{a:X}, 0x{b:X}, {o}}}" for a, b, o in sorted(runs)]),
        array(
            "Composition kCompositions",
            "What the normal form C joins.",
            [f"{{0x{a:X}, 0x{b:X}, 0x{c:X}}}" for (a, b), c in pairs],
        ),
        array(
            "CaseRun kLowercase",
            "What the library's Lowercase changes; U+0130 alone becomes two characters.",
            [f"{{0x{a:X}, 0x{b:X}, {step}, {distance}}}" for a, b, step, distance in steps(lowercase())],
        ),
    ]
    types = (
        "struct OrderRange {\n    uint32_t first, last, order;\n};\n"
        "struct Composition {\n    uint32_t first, second, composed;\n};\n"
        "struct CaseRun {\n    uint32_t first, last, step;\n    int32_t distance;\n};\n"
    )
    return wrapped(types, tables)


def wrapped(types: str, tables: list[str]) -> str:
    """A generated header."""
    return (
        "// Generated by make_unicode_tables.py; do not edit.\n#pragma once\n\n#include <cstdint>\n\n"
        f"// clang-format off\nnamespace ml {{\n\n{types}\n"
        + "\n".join(tables)
        + "\n} // namespace ml\n// clang-format on\n"
    )


if __name__ == "__main__":
    CLASSES.write_text(classes_header(), encoding="utf-8")
    FORMS.write_text(forms_header(), encoding="utf-8")
    print(f"wrote {CLASSES} and {FORMS}", file=sys.stderr)

import gzip
import os
import re
import shutil
import subprocess
import tarfile
import tracemalloc

import pytest
from archive14 import TRAINING_PAIRS, members, pairs, training, write_archive, xml_set
from conftest import command, refused

from fairseq_cgc.errors import CorpusError
from fairseq_cgc.recipe import iwslt14
from fairseq_cgc.recipe.files import locked, read_json, read_lines, sha256_of
from fairseq_cgc.recipe.iwslt14 import TEST_SETS, read_archive, segments, training_lines, write_raw
from fairseq_cgc.recipe.preparation import Settings

TRAIN = "de-en/train.tags.de-en.{}"
SET = "de-en/" + TEST_SETS[2] + ".de-en.{}.xml"
NEEDED = {f"train.tags.de-en.{language}" for language in ("de", "en")}
NEEDED |= {f"{stem}.de-en.{language}.xml" for stem in TEST_SETS for language in ("de", "en")}
MIB = 2**20


def gnu_tools():
    if not shutil.which("sed") or not shutil.which("grep"):
        return False
    return "GNU sed" in subprocess.run(["sed", "--version"], capture_output=True, text=True).stdout


def recipe(pipeline, text):
    """What the recipe's own commands leave of a text."""
    done = subprocess.run(
        ["bash", "-c", pipeline],
        input=text.encode(),
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=True,
    )
    return done.stdout.decode().removesuffix("\n").split("\n")


RECIPE_TRAINING = r"""grep -v '<url>' | grep -v '<talkid>' | grep -v '<keywords>' | sed -e 's/<title>//g' |
    sed -e 's/<\/title>//g' | sed -e 's/<description>//g' | sed -e 's/<\/description>//g'"""
RECIPE_SEGMENTS = r"""grep '<seg id' | sed -e 's/<seg id="[0-9]*">\s*//g' | sed -e 's/\s*<\/seg>\s*//g' |
    sed -e "s/\’/\'/g" """


def test_the_address_and_the_sets_are_those_of_fairseqs_recipe():
    fairseq = pytest.importorskip("fairseq")
    script = os.path.join(os.path.dirname(fairseq.__file__), "examples", "translation", "prepare-iwslt14.sh")
    if not os.path.exists(script):
        pytest.skip("this fairseq comes without its examples")
    text = open(script, encoding="utf-8").read()
    assert f'URL="{iwslt14.URL}"' in text and f"GZ={iwslt14.ARCHIVE}\n" in text
    assert tuple(re.findall(r"\$tmp/(IWSLT14\.\w+\.\w+)\.de-en\.\$l", text)) == TEST_SETS
    assert f"NR%{Settings.valid_every} == 0" in text


def test_the_expected_validation_set_is_every_23rd_pair():
    train, valid = iwslt14.EXPECTED_PAIRS["train"], iwslt14.EXPECTED_PAIRS["valid"]
    assert (train + valid) // Settings.valid_every == valid


@pytest.mark.parametrize("tag", ["url", "talkid", "keywords"])
def test_a_training_line_with_this_tag_anywhere_is_dropped(tag):
    assert training_lines(f"a\n<{tag}>x</{tag}>\n y <{tag}> z\n</{tag}>\n") == ["a", f"</{tag}>"]


@pytest.mark.parametrize("tag", ["title", "description"])
def test_these_tags_are_removed_from_a_training_line_that_is_kept(tag):
    assert training_lines(f"<{tag}> a </{tag}>\nb<{tag}><{tag}>c</{tag}>d\n") == [" a ", "bcd"]


@pytest.mark.parametrize(
    "line", ["<speaker>A</speaker>", "<translator>", "<reviewer>", "", "  ", "<title", "Rad’s &amp; <seg id", "\u00a0"]
)
def test_a_training_line_without_those_tags_is_kept_as_it_is(line):
    assert training_lines(f"a\n{line}\nb\n") == ["a", line, "b"]


@pytest.mark.parametrize("separator", "\u2028\u2029\u0085\x0b\x0c\x1c\r")
def test_only_a_line_feed_ends_a_line(separator):
    assert training_lines(f"a{separator}b\nc") == [f"a{separator}b", "c"]
    assert segments(f'<seg id="1">a{separator}b</seg>\nc') == [f"a{separator}b"]


def test_a_carriage_return_before_the_line_feed_is_dropped():
    assert training_lines("a\r\n\r\nb") == ["a", "", "b"]
    assert segments('<seg id="1"> a </seg>\r\n') == ["a"]


def test_only_lines_with_a_segment_are_kept_of_a_set():
    text = '<doc docid="1">\n<title>x</title>\n<seg id="1">a</seg>\nb\n<seg>c</seg>\n<hl><seg id="2">d</seg></hl>\n'
    assert segments(text) == ["a", "<hl>d</hl>"]


def test_an_empty_segment_stays_as_an_empty_line():
    assert segments('<seg id="1">a</seg>\n<seg id="2"></seg>\n<seg id="3">  </seg>\n') == ["a", "", ""]


def test_only_segment_tags_with_a_number_are_removed():
    assert segments('<seg id=""> a </seg>\n<seg id="x"> b </seg>') == ["a", '<seg id="x"> b']


def test_entities_and_other_quotes_stay_and_the_typographic_apostrophe_becomes_ascii():
    assert segments('<seg id="1">’&amp;‘´“&quot;’</seg>') == ["'&amp;‘´“&quot;'"]


@pytest.mark.parametrize("space", "\t\x0b\x0c\r \u1680\u2000\u2006\u2008\u200a\u2028\u2029\u205f\u3000")
def test_white_space_beside_a_segment_tag_is_removed(space):
    assert segments(f'<seg id="1">{space}{space}a{space}b{space}</seg>{space}') == [f"a{space}b"]


@pytest.mark.parametrize("space", "\u00a0\u2007\u202f\u0085\u180e\u200b\ufeff\x1c\x1f")
def test_what_seds_white_space_is_not_stays_beside_a_segment_tag(space):
    assert segments(f'<seg id="1">{space}a{space}</seg>{space}') == [f"{space}a{space}{space}"]


@pytest.mark.skipif(not gnu_tools(), reason="the recipe wants GNU grep and sed")
def test_every_character_beside_a_segment_tag_is_treated_as_gnu_sed_does():
    # All of the basic plane, and what Python holds to be white space, which is in it.
    characters = [chr(code) for code in range(1, 0x10000) if code != 0x0A and not 0xD800 <= code < 0xE000]
    text = "".join(f'{c}<seg id="1">{c}a{c}</seg>{c}b\n' for c in characters)
    theirs = recipe(RECIPE_SEGMENTS, text)
    assert len(theirs) == len(characters)
    assert [c for c, mine, their in zip(characters, segments(text), theirs) if mine != their] == []


@pytest.mark.skipif(not gnu_tools(), reason="the recipe wants GNU grep and sed")
@pytest.mark.parametrize("side", [0, 1])
def test_the_stand_in_is_read_as_the_recipes_commands_read_it(side):
    nasty = [
        "  <title>a</title> <description> b",
        "<ti<title>tle>c<ti</description>tle>",
        "<de<title>scription>d</descr</title>iption>",
        ' <seg id="1"> <seg id="22">\ta </seg> </seg>  b\u3000</seg> \u00a0</seg>',
        '<seg id="3"> <seg </seg>id="4">',
        '<seg id="5" > a  <seg id=5>’ </seg',
        '<seg id="١"> a</seg> <seg id="2²"> b',
    ]
    text = training(side) + "\n".join(nasty)
    assert training_lines(text) == recipe(RECIPE_TRAINING, text)
    text = xml_set(TEST_SETS[0], side) + "\n".join(nasty)
    assert segments(text) == recipe(RECIPE_SEGMENTS, text)


def test_a_segment_of_a_million_spaces_takes_no_quadratic_time():
    line = f'<seg id="1">a{" " * 10**6}b{" " * 10**6}</seg>'
    assert segments(line) == [f"a{' ' * 10**6}b"]


def test_the_stand_in_has_pairs_for_training_and_tests():
    assert len(set(pairs())) == len(pairs()) > TRAINING_PAIRS > 150
    assert len(training_lines(training(0))) == len(training_lines(training(1))) == TRAINING_PAIRS


@pytest.mark.parametrize("top", ["", "./"])
@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_needed_files_are_read_from_every_kind_of_tar_archive(tmp_path, tar_format, top):
    texts = read_archive(write_archive(tmp_path / "a.tgz", top=top, tar_format=tar_format))
    assert texts.keys() == NEEDED
    assert all(text == members()["de-en/" + name] for name, text in texts.items())


def test_an_archive_of_the_command_tar_is_read(tmp_path):
    with tarfile.open(write_archive(tmp_path / "a.tgz")) as archive:
        archive.extractall(tmp_path)  # our own: and Python 3.11.2 has no filter
    subprocess.run(["tar", "-czf", tmp_path / "b.tgz", "-C", tmp_path, "./de-en"], check=True)
    assert read_archive(tmp_path / "b.tgz") == read_archive(tmp_path / "a.tgz")


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_name_belongs_to_the_next_file_alone(tmp_path, tar_format):
    changes = {"de-en/" + 60 * "long/" + "ä": "x", "de-en/after": "y", "de-en/train.en": None}
    changes |= {(name := SET.format("de")): None}
    archive = write_archive(tmp_path / "a.tgz", changes, [member(name, data=b"last")], tar_format=tar_format)
    assert read_archive(archive)[name.removeprefix("de-en/")] == "last"


def test_files_of_other_folders_are_left_alone(tmp_path):
    changes = {"train.tags.de-en.de": "x", "de-en/de-en/train.tags.de-en.de": "x", "en-de/train.tags.de-en.de": "x"}
    texts = read_archive(write_archive(tmp_path / "a.tgz", changes))
    assert texts["train.tags.de-en.de"] == training(0)


def test_reading_writes_nothing(tmp_path):
    read_archive(write_archive(tmp_path / "a.tgz"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]


def member(name, kind=tarfile.REGTYPE, link="", data=b""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (member("/etc/x"), "'/etc/x', a path out"),
        (member("de-en/../../x"), "'de-en/../../x', a path out"),
        (member(".."), "'..', a path out"),
        (member("/" + "x" * 150), "'/xxx.*, a path out"),
        (member("../d", tarfile.DIRTYPE), "'../d', a path out"),
        (member("de-en/x", tarfile.SYMTYPE, "/etc/passwd"), "'de-en/x', which is no plain file"),
        (member("de-en/x", tarfile.SYMTYPE, "y" * 150), "'de-en/x', which is no plain file"),
        (member("de-en/x", tarfile.LNKTYPE, "de-en/README"), "'de-en/x', which is no plain file"),
        (member("de-en/x", tarfile.CHRTYPE), "'de-en/x', which is no plain file"),
        (member("de-en/x", tarfile.BLKTYPE), "'de-en/x', which is no plain file"),
        (member("de-en/x", tarfile.FIFOTYPE), "'de-en/x', which is no plain file"),
        (member("de-en/x", tarfile.GNUTYPE_SPARSE), "'de-en/x', which is no plain file"),
        (member("de-en/x", b"V"), "'de-en/x', which is no plain file"),
        (member(TRAIN.format("de")), "'de-en/train.tags.de-en.de' twice"),
        (member("./de-en//train.tags.de-en.de"), "'./de-en//train.tags.de-en.de' twice"),
        (member("/\x1b[2J\n" + 10000 * "x"), r"'/\\x1b\[2J\\nx{0,100}\.\.\.', a path out"),
        (member("/\udcff\udcff", data=b"x"), r"'/\\\\xff\\\\xff', a path out"),
    ],
)
def test_a_member_that_could_do_harm_is_refused_by_name(tmp_path, bad, words, tar_format):
    archive = write_archive(tmp_path / "a.tgz", extra=[bad], tar_format=tar_format)
    with pytest.raises(CorpusError, match=words) as error:
        write_raw(archive, tmp_path / "raw")
    assert "a.tgz" in str(error.value) and len(str(error.value)) < 400 and "\n" not in str(error.value)
    str(error.value).encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]


def test_a_sparse_file_of_an_extended_header_is_refused(tmp_path):
    info, data = member("de-en/x", data=b"1\n0\n1\n")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "de-en/x"}
    archive = write_archive(tmp_path / "a.tgz", extra=[(info, data)], tar_format=tarfile.PAX_FORMAT)
    with pytest.raises(CorpusError, match="'de-en/x', which is no plain file"):
        read_archive(archive)


def header(name, size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


ZEROS = gzip.compress(bytes(16 * MIB), 1)
BOMBS = {
    "a needed member": (header(TRAIN.format("de"), 2**30), "a file or a header of 1,073,741,824 bytes"),
    "another member": (header("de-en/README", 2**30), "more than 268,435,456 bytes"),
    "a member of a terabyte": (header("de-en/README", 2**40), "more than 268,435,456 bytes"),
    "no tar": (b"", "more than 268,435,456 bytes"),
    "an extended header": (header("x", 2**30, tarfile.XHDTYPE), "a file or a header of 1,073,741,824 bytes"),
    "a global header": (header("x", 2**30, tarfile.XGLTYPE), "a file or a header of 1,073,741,824 bytes"),
    "a long name": (header("x", 2**30, tarfile.GNUTYPE_LONGNAME), "a file or a header of 1,073,741,824 bytes"),
    "a long link": (header("x", 2**30, tarfile.GNUTYPE_LONGLINK), "a file or a header of 1,073,741,824 bytes"),
}


def peak_memory(function, *arguments):
    tracemalloc.start()
    try:
        function(*arguments)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_gigabyte_of_zeros_is_refused_in_little_memory(tmp_path, bomb):
    start, words = BOMBS[bomb]
    with open(tmp_path / "a.tgz", "wb") as file:  # gzip streams one after the other are one stream
        file.write(gzip.compress(start))
        file.writelines([ZEROS] * 64)

    def refused():
        with pytest.raises(CorpusError, match=words):
            read_archive(tmp_path / "a.tgz")

    assert peak_memory(refused) < 2 * MIB


def test_members_by_the_thousand_take_no_memory(tmp_path):
    many = gzip.compress(b"".join(header(f"de-en/{n}", 0) for n in range(2000)), 1)
    (tmp_path / "a.tgz").write_bytes(many * 3)

    def refused():
        with pytest.raises(CorpusError, match="lacks 12 of the 12"):
            read_archive(tmp_path / "a.tgz")

    assert peak_memory(refused) < 2 * MIB


BROKEN = [
    b"plain text, no tar archive" * 100,
    b"short",
    header("de-en/x", 600) + b"y" * 512,
    header("x", 600, tarfile.XHDTYPE) + b"y" * 512,
    header(TRAIN.format("de"), 600) + b"y" * 599,
    (header("x", 11, tarfile.XHDTYPE) + b"11 path=ab\n".ljust(512, b"\0")) * 5000,
    *(
        header("x", len(bad), tarfile.XHDTYPE) + bad.ljust(512, b"\0")
        for bad in (b"0 a=b\n", b"x", b"99 path=a\n", b"5 ab\n", b"99999999999999999999 a=b\n", b"\0\0")
    ),
]


@pytest.mark.parametrize("start", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_tar_archive_is_refused(tmp_path, start):
    (tmp_path / "a.tgz").write_bytes(gzip.compress(start))
    with pytest.raises(CorpusError, match="a.tgz is truncated or damaged"):
        read_archive(tmp_path / "a.tgz")


@pytest.mark.parametrize("end", [b"y" * 512, b"y"])
def test_an_archive_that_ends_in_garbage_lacks_what_would_follow(tmp_path, end):
    (tmp_path / "a.tgz").write_bytes(gzip.compress(header("de-en/x", 0) + end))
    with pytest.raises(CorpusError, match="lacks 12 of the 12"):
        read_archive(tmp_path / "a.tgz")


def test_a_member_of_a_negative_size_is_refused(tmp_path):
    (tmp_path / "a.tgz").write_bytes(gzip.compress(header("de-en/x", -512)))
    with pytest.raises(CorpusError, match="'de-en/x', which is no plain file"):
        read_archive(tmp_path / "a.tgz")


def damaged(data, at):
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


DAMAGE = {
    "cut early": (lambda data: data[:100], "is truncated"),
    "cut in the header": (lambda data: data[:5], "is truncated"),
    "cut in the middle": (lambda data: data[: len(data) // 2], "is truncated"),
    "cut in the last bytes": (lambda data: data[:-1], "is truncated"),
    "a changed byte": (lambda data: damaged(data, len(data) // 2), "damaged|truncated"),
    "a changed checksum": (lambda data: damaged(data, len(data) - 6), "damaged .*CRC"),
    "something after it": (lambda data: data + b"more", "damaged .*gzip"),
    "an HTML page": (lambda data: b"\xef\xbb\xbf\r\n <!DOCTYPE html><html>", "is an HTML page"),
    "nothing": (lambda data: b"", "is empty"),
    "text": (lambda data: b"PK\x03\x04 and more", r"begins with b'PK\\x03\\x04 and'"),
    "a bare tar archive": (gzip.decompress, "begins with b'de-en"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_archive_is_refused_and_leaves_nothing(tmp_path, damage):
    change, words = DAMAGE[damage]
    archive = write_archive(tmp_path / "a.tgz")
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(CorpusError, match=f"a.tgz .*({words}).* get de-en.tgz again") as error:
        write_raw(archive, tmp_path / "raw")
    assert str(error.value).count("\n") <= 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]


def test_bytes_changed_anywhere_end_in_our_error(tmp_path):
    plain = gzip.decompress(write_archive(tmp_path / "a.tgz").read_bytes())
    headers = [at for at in range(0, len(plain), 512) if plain[at + 257 : at + 262] == b"ustar"]
    for number, at in enumerate(headers * 20):
        block = bytearray(plain[at : at + 512])
        block[(number * 37) % 512] ^= 1 << number % 8
        if number % 2:  # with a checksum that is right
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
        (tmp_path / "b.tgz").write_bytes(gzip.compress(plain[:at] + block + plain[at + 512 :], 1))
        try:
            read_archive(tmp_path / "b.tgz")
        except CorpusError:
            pass


def test_a_missing_archive_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(CorpusError, match="missing.tgz does not exist; expected a copy of de-en.tgz"):
        read_archive(tmp_path / "missing.tgz")
    with pytest.raises(CorpusError, match="is not a file"):
        read_archive(tmp_path)


def test_all_missing_members_are_named_at_once(tmp_path):
    gone = [TRAIN.format("en"), SET.format("de")]
    archive = write_archive(tmp_path / "a.tgz", dict.fromkeys(gone))
    with pytest.raises(CorpusError, match="lacks 2 of the 12 files") as error:
        read_archive(archive)
    assert str(error.value).endswith("\nMissing: " + ", ".join(name.removeprefix("de-en/") for name in gone))


def test_a_folder_in_the_place_of_a_file_counts_as_missing(tmp_path):
    name = TRAIN.format("de")
    archive = write_archive(tmp_path / "a.tgz", {name: None}, [member(name, tarfile.DIRTYPE)])
    with pytest.raises(CorpusError, match="Missing: train.tags.de-en.de$"):
        read_archive(archive)


def test_invalid_utf_8_is_named_by_file_line_and_column(tmp_path):
    archive = write_archive(tmp_path / "a.tgz", {SET.format("en"): b"good\ng\xc3\xbct\xff\n"})
    with pytest.raises(CorpusError, match=r"tst2010.de-en.en.xml in .*a.tgz, line 2: byte 0xff at column 5 is not"):
        read_archive(archive)


def test_the_raw_folder_holds_the_sentences_in_the_recipes_order(tmp_path):
    write_raw(write_archive(tmp_path / "a.tgz"), tmp_path / "raw")
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == [
        ".fairseq-cgc",
        "archive.json",
        "test.de",
        "test.en",
        "train.de",
        "train.en",
    ]
    for side, language in enumerate(("de", "en")):
        assert read_lines(tmp_path / "raw" / f"train.{language}") == training_lines(training(side))
        sets = [segments(xml_set(stem, side)) for stem in TEST_SETS]
        assert read_lines(tmp_path / "raw" / f"test.{language}") == sum(sets, [])


def test_the_record_says_what_the_sentences_were_made_from(tmp_path):
    archive = write_archive(tmp_path / "a.tgz")
    record = write_raw(str(archive), tmp_path / "raw")
    lines = {
        "train": {"de": TRAINING_PAIRS, "en": TRAINING_PAIRS},
        **{stem: {"de": 12, "en": 12} for stem in TEST_SETS},
    }
    size = archive.stat().st_size
    assert record == {"name": "a.tgz", "bytes": size, "sha256": sha256_of(archive), "lines": lines}
    assert read_json(tmp_path / "raw" / "archive.json") == record


def test_training_sides_part_at_the_first_talk_of_another_length(tmp_path):
    lines = [line for line in training(1).split("\n") if "Translator 3" not in line and "Translator 5" not in line]
    archive = write_archive(tmp_path / "a.tgz", {TRAIN.format("en"): "\n".join(["<keywords>", *lines])})
    at = training(0).split("\n").index("<url>http://talks.example/3.html</url>") + 1
    words = (
        f"train.tags.de-en.de in .*a.tgz has {TRAINING_PAIRS} sentences and train.tags.de-en.en {TRAINING_PAIRS - 2}; .*\n"
        f"They diverge where train.tags.de-en.de has 24 sentences in the talk 'http://talks.example/3.html' of line {at} "
        f"and train.tags.de-en.en has 23 sentences in the talk 'http://talks.example/3.html' of line {at + 1}$"
    )
    with pytest.raises(CorpusError, match=words):
        write_raw(archive, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_training_sides_part_where_one_ends_or_before_the_first_talk(tmp_path):
    text = training(0)
    archive = write_archive(tmp_path / "a.tgz", {TRAIN.format("de"): "x\n" + text})
    with pytest.raises(CorpusError, match="de has 1 sentences in the talk 'before the first' .* has 0 sentences"):
        write_raw(archive, tmp_path / "raw")
    archive = write_archive(tmp_path / "a.tgz", {TRAIN.format("de"): text + "<url>last</url>\nx\n"})
    with pytest.raises(
        CorpusError, match="de has 1 sentences in the talk 'last' of line .* and train.tags.de-en.en ends"
    ):
        write_raw(archive, tmp_path / "raw")


def test_the_sides_of_a_set_part_at_the_first_other_segment(tmp_path):
    lines = xml_set(TEST_SETS[2], 1).split("\n")
    lines.remove(next(line for line in lines if '<seg id="4">' in line))
    archive = write_archive(tmp_path / "a.tgz", {SET.format("en"): "\n".join(lines)})
    words = (
        r"tst2010.de-en.de.xml in .*a.tgz has 12 sentences and .*tst2010.de-en.en.xml 11; [^\n]*\nThey diverge where "
        r".*tst2010.de-en.de.xml has segment '4' of document '20' and .*tst2010.de-en.en.xml has segment '5' of document '20'$"
    )
    with pytest.raises(CorpusError, match=words):
        write_raw(archive, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_the_sides_of_a_set_part_where_one_ends(tmp_path):
    text = xml_set(TEST_SETS[2], 0).replace("</mteval>", '<doc docid="29">\n<seg id="1">x</seg>')
    archive = write_archive(tmp_path / "a.tgz", {SET.format("de"): text})
    with pytest.raises(CorpusError, match="de.xml has segment '1' of document '29' and .*en.xml ends$"):
        write_raw(archive, tmp_path / "raw")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (TRAIN.format("de"), ""),
        (TRAIN.format("en"), "<url>a</url>\n\n \n"),
        (SET.format("de"), ""),
        (SET.format("en"), '<doc docid="1">\n<seg id="1"> </seg>\n'),
    ],
)
def test_a_side_without_sentences_is_refused(tmp_path, name, text):
    archive = write_archive(tmp_path / "a.tgz", {name: text})
    with pytest.raises(CorpusError, match=f"{name} in .*a.tgz holds no sentences"):
        write_raw(archive, tmp_path / "raw")


def test_a_folder_that_could_not_be_finished_does_not_appear(tmp_path, monkeypatch):
    archive = write_archive(tmp_path / "a.tgz")
    monkeypatch.setattr(iwslt14, "write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_raw(archive, tmp_path / "raw")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]


def test_the_other_direction_comes_from_the_same_archive(tmp_path):
    archive = write_archive(tmp_path / "a.tgz")
    write_raw(archive, tmp_path / "de-en")
    write_raw(archive, tmp_path / "en-de", ("en", "de"))
    for name in ("train.de", "train.en", "test.de", "test.en"):
        assert (tmp_path / "en-de" / name).read_bytes() == (tmp_path / "de-en" / name).read_bytes()


def test_another_pair_of_the_archive_s_layout_may_have_fewer_test_sets(tmp_path):
    names = [name for name in members() if "TEDX" not in name and "tst2012" not in name]
    french = {re.sub(r"\.de(\.xml)?$", r".fr\1", name.replace("de-en", "en-fr")): members()[name] for name in names}
    archive = write_archive(tmp_path / "a.tgz", {**dict.fromkeys(members()), **french})
    made = write_raw(archive, tmp_path / "raw", ("fr", "en"))
    assert len(made["lines"]) == 1 + 3 and read_lines(tmp_path / "raw" / "train.fr")
    with pytest.raises(CorpusError, match="has no folder de-en/, but en-fr; give the languages"):
        write_raw(archive, tmp_path / "other")
    with pytest.raises(CorpusError, match="has no folder it-en/, but en-fr; give the languages"):
        write_raw(archive, tmp_path / "other", ("it", "en"))


def test_an_archive_and_an_address_are_one_too_many_and_another_pair_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive = write_archive(tmp_path / "a.tgz")
    assert "leave one of the two out" in refused("prepare-iwslt14", "--archive", archive, "--url", "http://x/")
    assert "give the languages" in refused("prepare-iwslt14", "--archive", archive, "--source-lang", "fr")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["iwslt14.fr-en"]


def test_a_damaged_archive_in_the_place_of_the_download_is_left_alone(tmp_path):
    """It may be the user's own."""
    (tmp_path / "de-en.tgz").write_bytes(b"mine")
    words = refused("prepare-iwslt14", "--out", tmp_path, "--url", "http://127.0.0.1:9/de-en.tgz")
    assert (
        "de-en.tgz begins with b'mine'" in words and f"\nIf {tmp_path / 'de-en.tgz'} is damaged, move it away" in words
    )
    assert (tmp_path / "de-en.tgz").read_bytes() == b"mine"


def test_two_preparations_do_not_download_into_the_same_folder(tmp_path):
    out = tmp_path / "data"
    before = [*out.rglob("*")]
    with locked(out / ".lock", "x"):
        done = command("prepare-iwslt14", "--out", out, "--url", "http://127.0.0.1:9/de-en.tgz", check=False)
    assert done.returncode == 1 and "is in use by another process" in done.stderr
    assert [path.name for path in out.rglob("*") if path not in before] == [".lock"]

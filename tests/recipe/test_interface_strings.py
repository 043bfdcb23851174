import json
import os
import re
import signal
import zipfile

import pytest
from standin import components, write_wheel
from test_files import ended_well, forked
from test_processes import gone, read_ids

from fairseq_cgc.errors import CorpusError
from fairseq_cgc.recipe import interface_strings
from fairseq_cgc.recipe.files import read_json, read_lines, sha256_of
from fairseq_cgc.recipe.interface_strings import check_wheel, read_pairs, split_pairs, write_corpus

MEMBER = "homeassistant/components/extra/translations/{}.json"


def test_strings_are_paired_by_component_and_key(tmp_path):
    extra = {
        MEMBER.format("de"): json.dumps({"a": {"b": " Guten \n Tag "}, "c": "gleich", "d": " ", "e": "E"}),
        MEMBER.format("en"): json.dumps({"a": {"b": "Good day"}, "c": "gleich", "d": "x", "f": "F"}),
        "homeassistant/components/extra/strings.json": json.dumps({"a": "not read"}),
        "elsewhere/translations/de.json": "not JSON",
    }
    pairs = read_pairs(write_wheel(tmp_path / "a.whl", extra))
    assert ("Guten Tag", "Good day") in pairs
    assert len(pairs) == len(set(pairs)) == 4 * 5 * 6 * 4 + 1
    assert not any("Zigbee" in pair[0] or "gleich" in pair[0] for pair in pairs)
    assert pairs == sorted(pairs)


def groups_of(pairs):
    return [{pair[side].lower().replace(" ", "") for pair in pairs} for side in (0, 1)]


def test_no_sentence_stands_in_two_splits():
    pairs = [(f"s{i}", f"t{i}") for i in range(300)]
    pairs += [(f"S{i}", f"t{i + 1}") for i in range(0, 100, 2)]  # chains over the target, and over case
    pairs += [("s 7", "other"), ("one more", "T 250")]
    splits = split_pairs(pairs, 20, 40)
    assert {split: len(part) for split, part in splits.items()} == {"train": len(pairs) - 60, "valid": 20, "test": 40}
    assert sorted(sum(splits.values(), [])) == sorted(pairs)
    for one in splits:
        for other in splits:
            if one != other:
                for mine, theirs in zip(groups_of(splits[one]), groups_of(splits[other])):
                    assert not mine & theirs


def test_the_split_is_the_same_in_any_order_of_the_pairs():
    pairs = [(f"s{i}", f"t{i // 2}") for i in range(200)]
    forward, backward = split_pairs(pairs, 10, 20), split_pairs(pairs[::-1], 10, 20)
    assert {s: sorted(p) for s, p in forward.items()} == {s: sorted(p) for s, p in backward.items()}


def test_a_corpus_too_small_to_hold_out_from_is_refused():
    with pytest.raises(CorpusError, match="has 10 pairs, too few to hold 5 out for validation and 5"):
        split_pairs([(str(i), str(-i)) for i in range(10)], 5, 5)


def test_the_corpus_folder_has_aligned_files_and_says_what_it_is(tmp_path):
    wheel = write_wheel(tmp_path / "a.whl")
    write_corpus(wheel, tmp_path / "raw", sha256_of(wheel), valid_size=20, test_size=30)
    assert read_json(tmp_path / "raw" / "corpus.json")["pairs"] == {"train": 430, "valid": 20, "test": 30}
    pairs = set(read_pairs(wheel))
    for split, size in (("train", 430), ("valid", 20), ("test", 30)):
        sides = [read_lines(tmp_path / "raw" / f"{split}.{language}") for language in ("de", "en")]
        assert len(sides[0]) == size and set(zip(*sides)) <= pairs


def test_a_wrong_archive_is_refused_and_leaves_nothing(tmp_path):
    wheel = write_wheel(tmp_path / "a.whl")
    with pytest.raises(CorpusError, match=f"has the SHA-256 {sha256_of(wheel)}, expected {interface_strings.SHA256}"):
        write_corpus(wheel, tmp_path / "raw")
    with pytest.raises(CorpusError, match="does not exist"):
        check_wheel(tmp_path / "missing.whl")
    assert [path.name for path in tmp_path.iterdir()] == ["a.whl"]


@pytest.mark.parametrize("damage", ["truncated", "no zip", "no translations", "bad JSON", "bad UTF-8", "huge", "bomb"])
def test_a_damaged_archive_of_the_right_hash_is_refused_and_leaves_nothing(tmp_path, damage, monkeypatch):
    wheel = tmp_path / "a.whl"
    bad = {"bad JSON": '{"a": ', "bad UTF-8": b'{"a": "\xff"}', "bomb": b"\0" * 9 * 2**20}.get(damage)
    write_wheel(wheel, {MEMBER.format("de"): bad} if bad else None)
    if damage == "truncated":
        wheel.write_bytes(wheel.read_bytes()[:-500])
    elif damage == "no zip":
        wheel.write_text("<html>Not found</html>")
    elif damage == "no translations":
        with zipfile.ZipFile(wheel, "w") as empty:
            empty.writestr("homeassistant/__init__.py", "")
    elif damage == "huge":
        monkeypatch.setattr(interface_strings, "MAX_JSON_BYTES", 100)
    with pytest.raises(CorpusError, match="a.whl") as error:
        write_corpus(wheel, tmp_path / "raw", sha256_of(wheel), 20, 30)
    assert str(error.value).count("\n") <= 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.whl"]


def test_without_a_network_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(CorpusError, match=r"pip could not download homeassistant==2025.4.4[\s\S]*--archive PATH"):
        interface_strings.download_wheel(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_that_is_there_is_left_alone_whatever_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel = tmp_path / interface_strings.WHEEL
    wheel.write_bytes(b"half")
    assert interface_strings.download_wheel(tmp_path) == wheel
    with pytest.raises(CorpusError, match="another version.\nMove it away and get"):
        write_corpus(wheel, tmp_path / "raw")
    assert wheel.read_bytes() == b"half"


def test_pip_ends_with_a_command_that_is_killed(tmp_path, monkeypatch):
    note = f"import os, time; open({str(tmp_path / 'ids')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text(note)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    parent = forked(lambda: interface_strings.download_wheel(tmp_path / "work"))
    [pid] = read_ids(tmp_path / "ids", 1)
    os.kill(parent, signal.SIGKILL)
    assert not ended_well(parent) and gone(pid)


def test_the_stand_in_has_enough_pairs():
    assert len(components()) == 4


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', "[" * 100000])
def test_half_a_surrogate_and_deep_nesting_are_named(tmp_path, text):
    name = "homeassistant/components/x/translations/de.json"
    wheel = write_wheel(tmp_path / "wheel.whl", {name: text})
    with pytest.raises(CorpusError):
        interface_strings.read_pairs(wheel)


@pytest.mark.parametrize("field, value, words", [(6, 1, "encrypted"), (8, 99, "compression method")])
def test_an_encrypted_wheel_and_one_of_an_unknown_method_are_named(tmp_path, field, value, words):
    """The fields of zip headers: flags, whose first bit is for encryption, and method."""
    wheel = write_wheel(tmp_path / "wheel.whl")
    data = bytearray(wheel.read_bytes())
    for header, shift in ((b"PK\3\4", 0), (b"PK\1\2", 2)):
        for match in re.finditer(re.escape(header), bytes(data)):
            data[match.start() + field + shift] = value
    wheel.write_bytes(data)
    with pytest.raises(CorpusError, match=rf"not a readable zip archive \(.*{words}") as error:
        interface_strings.read_pairs(wheel)
    assert "\n" not in str(error.value)

"""A stand-in for the IWSLT'14 archive: its layout, with sentences of our own."""

import io
import random
import tarfile
from itertools import product

from fairseq_cgc.recipe.iwslt14 import TEST_SETS

PEOPLE = {"Der Gärtner": "The gardener", "Die Ärztin": "The doctor", "Mein Onkel": "My uncle", "Das Kind": "The child"}
DEEDS = {"sucht": "looks for", "malt": "paints", "verkauft": "sells", "findet": "finds", "trägt": "carries"}
THINGS = {"den Korb": "the basket", "die Leiter": "the ladder", "das Rad": "the wheel", "den Schlüssel": "the key"}
TIMES = {"am Montag": "on Monday", "im Winter": "in winter", "jeden Abend": "every evening", "heute": "today"}
PLACES = {"im Dorf": "in the village", "am Fluss": "by the river", "auf dem Markt": "at the market"}

TALKS, TALK_SENTENCES = 8, 20
DOCUMENTS, SEGMENTS = 2, 6  # of a set
# Lines that a talk adds to its sentences, of those that the recipe keeps: speaker, title, description, translator.
TALK_LINES = 4
TRAINING_PAIRS = TALKS * (TALK_SENTENCES + TALK_LINES) + 4


def pairs():
    """All sentence pairs, in a mixed order that is always the same."""
    made = []
    for words in product(*(words.items() for words in (PEOPLE, DEEDS, THINGS, TIMES, PLACES))):
        german, english = zip(*words)
        made.append((f"{german[0]} {german[1]} {' '.join(german[2:])}.", f"{english[0]} {' '.join(english[1:])}."))
    random.Random(14).shuffle(made)
    return made


def training(side):
    """The ``train.tags`` file of German (0) or English (1)."""
    sentences = [pair[side] for pair in pairs()]
    lines = []
    for talk in range(TALKS):
        lines += [
            f"<url>http://talks.example/{talk}.html</url>",
            "<keywords>" + ("Garten, Rad", "garden, wheel")[side] + "</keywords>",
            f"<speaker>Speaker {talk}</speaker>",
            f"<talkid>{talk}</talkid>",
            "<title>" + (f"Rede {talk}: vom Korb", f"Talk {talk}: of the basket")[side] + "</title>",
            "<description>" + (f"Rede {talk} handelt davon.", f"Talk {talk} is about that.")[side] + "</description>",
            *sentences[talk * TALK_SENTENCES : (talk + 1) * TALK_SENTENCES],
            "<translator href='x'>" + f"Translator {talk}</translator>",
        ]
    lines += [
        ("Das ist\u00a0Omas Rad’s &amp; Korb.", "That\u00a0is Grandma’s wheel &amp; basket.")[side],
        ("Ein\u2028Satz mit Trenner.", "A\u2028sentence with a separator.")[side],
        "",  # the recipe cleans this pair away, and the next
        ("Nein.", "No, that is not what I said at all, and you know it.")[side],
    ]
    return "".join(line + "\n" for line in lines)


def xml_set(stem, side):
    """An XML set of German (0) or English (1)."""
    number = TEST_SETS.index(stem)
    sentences = [pair[side] for pair in pairs()[TALKS * TALK_SENTENCES + number * DOCUMENTS * SEGMENTS :]]
    kind = ("srcset", "refset")[side]
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        "<mteval>",
        f'<{kind} setid="stand-in-{number}" srclang="german"' + (">", ' trglang="english" refid="ref">')[side],
    ]
    for document in range(DOCUMENTS):
        lines += [
            f'<doc docid="{number}{document}" genre="lectures">',
            f"<url>http://talks.example/{number}/{document}</url>",
            "<keywords>" + ("Garten", "garden")[side] + "</keywords>",
            f"<speaker>Speaker {number}</speaker>",
            f"<talkid>{number}{document}</talkid>",
            "<title>" + ("Nicht dabei", "Left out")[side] + "</title>",
            "<description>" + ("Auch nicht", "This too")[side] + "</description>",
        ]
        texts = [sentences.pop(0) for _ in range(SEGMENTS)]
        if document == 1:
            texts[0] = ("Tom’s Rad &amp; Korb", "Tom’s wheel &amp; basket")[side]
            texts[1] = ("\u00a0Geschützt.\u00a0", "\u00a0Protected.\u00a0")[side]
            texts[2] = ""
        lines += [f'  <seg id="{segment}"> {text} </seg>' for segment, text in enumerate(texts, 1)]
        lines.append("</doc>")
    return "".join(line + "\n" for line in [*lines, f"</{kind}>", "</mteval>"])


def members():
    """Member name to text."""
    made = {"de-en/README": "A stand-in.\n", "de-en/train.en": "not read\n"}
    for side, language in enumerate(("de", "en")):
        made[f"de-en/train.tags.de-en.{language}"] = training(side)
        made |= {f"de-en/{stem}.de-en.{language}.xml": xml_set(stem, side) for stem in TEST_SETS}
    return made


def write_archive(path, changes=None, extra=(), top="", tar_format=tarfile.GNU_FORMAT):
    """Write the archive.

    Args:
        path: where to
        changes: member name to its text or bytes, added or in place of the usual one; None leaves it out
        extra: (``TarInfo``, bytes) of members to add at the end
        top: stands before every name
        tar_format: of ``tarfile``
    """
    with tarfile.open(path, "w:gz", format=tar_format, compresslevel=1) as archive:
        folder = tarfile.TarInfo(top + "de-en")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        for name, text in {**members(), **(changes or {})}.items():
            if text is not None:
                data = text.encode() if isinstance(text, str) else text
                info = tarfile.TarInfo(top + name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        for info, data in extra:
            archive.addfile(info, io.BytesIO(data))
    return path

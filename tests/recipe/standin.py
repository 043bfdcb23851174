"""A small wheel laid out like homeassistant's, with sentences of our own."""

import json
import zipfile

COLOURS = {"rot": "red", "blau": "blue", "grün": "green", "gelb": "yellow", "weiß": "white"}
THINGS = {"Lampe": "lamp", "Tür": "door", "Heizung": "heating", "Pumpe": "pump", "Kamera": "camera", "Uhr": "clock"}
STATES = {"an": "on", "aus": "off", "offen": "open", "defekt": "broken"}
PLACES = {"Küche": "kitchen", "Garage": "garage", "Diele": "hall", "Werkstatt": "workshop"}


def components():
    """Component to (German strings, English strings), nested as such files are."""
    made = {}
    for place, where in PLACES.items():
        german, english = {"title": "Zigbee"}, {"title": "Zigbee"}  # the same on both sides: dropped
        for colour, color in COLOURS.items():
            for thing, name in THINGS.items():
                for state, is_state in STATES.items():
                    key = f"{thing}_{colour}_{state}"
                    german[key] = {"name": f"Die Farbe {colour} der {thing} ({place}) ist {state}."}
                    english[key] = {"name": f"The colour {color} of the {name} ({where}) is {is_state}."}
        german |= {"empty": "", "only_german": "Nur hier", "number": 3}
        english |= {"empty": "Empty", "spaces": "x", "number": 3}
        made[place.lower().replace("ü", "ue")] = german, english
    return made


def write_wheel(path, files=None):
    """Write the wheel; ``files`` adds or replaces members."""
    members = {"homeassistant/__init__.py": "raise SystemExit('not to be run')"}
    for component, sides in components().items():
        for language, strings in zip(("de", "en"), sides):
            members[f"homeassistant/components/{component}/translations/{language}.json"] = json.dumps(strings)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, text in {**members, **(files or {})}.items():
            wheel.writestr(name, text)
    return path

"""The settings of a run as a table of what differs from its preset."""

from config_HeLLM import PRESETS, Settings
from utils.cli.flags import format_value
from utils.cli.layout import LOG_WIDTH, align, shorten

MAX_VALUE_WIDTH = 36  # longer values, such as paths, are shortened in the middle; the log has them in full


def nearest_preset(settings: Settings) -> tuple[str, dict]:
    """Return the preset with the fewest differences from the settings, and these: the preset's values by name."""
    differences = {}
    for name, changes in PRESETS.items():
        preset = vars(Settings(**changes))
        differences[name] = {field: value for field, value in preset.items() if value != getattr(settings, field)}
    name = min(differences, key=lambda name: len(differences[name]))
    return name, differences[name]


def settings_table(settings: Settings) -> list[str]:
    """Return the lines of the table: the nearest preset, then a line per setting that differs from it."""
    preset, differences = nearest_preset(settings)
    if not differences:
        return [f"settings: preset {preset}"]
    rows = [["", "this run", f"preset {preset}"]]
    for name, value in differences.items():
        values = (getattr(settings, name), value)
        rows.append([f"  {name}", *(shorten(format_value(each) or "-", MAX_VALUE_WIDTH // 2 + 8) for each in values)])
    return [f"settings: preset {preset}, except", *align(rows, LOG_WIDTH)]

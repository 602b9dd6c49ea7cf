"""Join the items of a dataset with what a table says about them, and count how many it has."""

from preprocess.raw.csv_table import ColumnSettings, ItemTable, LocalPicture, open_table, suggest_id_column
from preprocess.raw.item_metadata import Item
from preprocess.raw.summary import Summary
from utils.data.ids import count_from_other_ends, likely_cause, match_ids, show_examples


def join_items(
    table: ItemTable, item_ids: list[str], columns: ColumnSettings, summary: Summary
) -> tuple[list[Item | None], dict[str, LocalPicture]]:
    """Return what a table says about each item, and count in the summary how many items have what.

    Args:
        table: the table.
        item_ids: encoded id of each item.
        columns: names of the table's columns.
        summary: where the counts, and warnings of few, are added.

    Returns:
        Metadata per item, None where there is none, and the pictures that are files, by the item's id.

    Raises:
        ValueError: the table is about other items; shows ids of both, and the likely cause.
    """
    if not table.kinds:
        summary.add("titles, texts, pictures", "none", "no column for them: --title, --text and --picture name them")
        return [None] * len(item_ids), {}
    match = match_ids(item_ids, table.ids)
    if not match.found:
        problem = f"none of its {len(table.ids):,} items is one of the {len(item_ids):,} of the interactions"
        advice = suggest_id_column(open_table(table.path, columns, table.is_separate), item_ids)
        cause = advice or f"; {likely_cause(item_ids, table.ids)}"
        raise ValueError(f"{table.path}: {problem}: {show_examples(item_ids, table.ids)}{cause}")
    if table.is_separate:
        summary.add_matched(f"items in {table.path.name}", len(match.found), len(item_ids), match.note())
        if len(match.found) < len(item_ids) and not columns.item_id_column:
            better = suggest_id_column(open_table(table.path, columns, True), item_ids, len(match.found))
            if better:
                summary.warn(f"{table.path.name}: {len(match.found):,} of {len(item_ids):,} items{better}")
        if remark := count_from_other_ends(item_ids, table.ids):
            summary.warn(f"{table.path.name}: {remark}")
        summary.add_passed_over(f"lines of {table.path.name} without an item", table.n_without_item)
        summary.add_passed_over(f"lines of {table.path.name} with its header again", table.n_repeated_headers)
        summary.add_passed_over(f"further lines of {table.path.name}", table.n_repeated, "about an item above")
    items = [table.items.get(match.found.get(item_id, "")) for item_id in item_ids]
    pictures = {item_id: table.pictures[row] for item_id, row in match.found.items() if row in table.pictures}
    known = [item for item in items if item is not None]
    has = {
        "title": sum(bool(item.title) for item in known),
        "text": sum(bool(item.description) for item in known),
        "picture": sum(bool(item.image) for item in known) + len(pictures),
    }
    for kind in table.kinds:
        summary.add_matched(f"{kind}s", has[kind], len(item_ids))
    return items, pictures

"""The page of an experiment as one HTML file: no scripts, nothing from the network, light and dark, on paper and on a phone."""

from __future__ import annotations

from pathlib import Path

from stages.humanize import count_text, duration, size_text
from stages.pose.skeleton import COCO_KEYPOINTS
from stages.report.page.content import AP_COLUMNS, CacheRow, Cost, Page, Person, Scored, SplitRow, Who
from stages.report.page.figures import curves_figure, differences_figure, joints_figure
from stages.report.page.glossary import GLOSSARY
from stages.report.page.markup import Cell, Row, definitions, details, escape, paragraph, section, table, tiles
from stages.report.page.overlays import JOINT_COLOURS
from stages.report.page.wording import (
    ap_text,
    difference_sentence,
    is_significant,
    signed_text,
)

__all__ = ["render"]

_SECTIONS = {
    "scores": "AP",
    "differences": "Differences",
    "curves": "Curves",
    "overlays": "What they see",
    "worst": "Worst cases",
    "joints": "Joints",
    "cache": "Cache",
    "data": "Data",
    "sources": "What it was made from",
}


_CARDS: tuple[Who, ...] = ("student", "baseline", "primary", "senior", "other")


def render(page: Page) -> str:
    """The whole page."""
    parts = [_head(page), _scores(page), _differences(page), _curves(page), _overlays(page), _worst(page), _joints(page)]
    parts += [_cache(page), _data(page), _sources(page), _foot(page)]
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(page.name)} - distillation report</title><style>{style}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _head(page: Page) -> str:
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title in _SECTIONS.items())
    cards = "".join(_card(row) for row in sorted(page.rows, key=_card_order) if row.headline)
    verdicts = "".join(f"<li>{escape(difference_sentence(item))}</li>" for item in page.differences if item.headline)
    return (
        f"<header><h1>{escape(page.name)}</h1>"
        f"{paragraph(f'A small pose network taught by two teachers. Written {page.made_at}.', quiet=True)}"
        f"<nav>{links}</nav></header>"
        f'<div class="cards">{cards}</div><p class="protocol">{escape(page.protocol)}</p><ul>{verdicts}</ul>'
    )


def _card_order(row: Scored) -> int:
    """The student first: it is what the experiment is about."""
    return _CARDS.index(row.who)


def _card(row: Scored) -> str:
    ap = row.scores["AP"]
    small = f"AP50 {ap_text(row.scores['AP50'])}, AP75 {ap_text(row.scores['AP75'])}"
    size = f"{row.cost.params / 1e6:.2f} M parameters" if row.cost and row.cost.params else ""
    return (
        f'<div class="card {row.who}"><div class="name">{escape(row.name)}</div><div class="value">{ap_text(ap)}</div>'
        f'<div class="bar"><i style="width:{max(ap, 0):.1%}"></i></div>'
        f'<div class="small">{escape(small)}<br>{escape(size)}</div></div>'
    )


def _scores(page: Page) -> str:
    head = ["", *AP_COLUMNS, "decoder", "parameters", "GMac (10^9)", "GFLOPs (2^30 MAC)", "input", "ms an image"]
    rows: list[Row] = [
        [
            Cell(row.name, words=True, who=row.who),
            *(Cell(ap_text(row.scores[column]), best=column == "AP") for column in AP_COLUMNS),
            Cell(row.decoder, words=True),
            *_cost(row.cost),
        ]
        for row in page.rows
    ]
    return section(
        "scores",
        _SECTIONS["scores"],
        table(head, rows),
        details("What the words mean", definitions(GLOSSARY)),
        paragraph(
            f"Decoder of the networks: {page.decoder_reason}. Cached targets are the teachers' bits of the plain crops, "
            "decoded by the centroid and without a flip test: what the student is taught. Parameters and multiply-adds are "
            "of one image without the flip test, in units of 10^9, and of 2^30, which HRNet's papers call GFLOPs. Time is "
            f"the median of one forward pass of one image in float32 on {page.machine}.",
            quiet=True,
        ),
        '<div class="figures">',
        f"<div><h3>AP by decoder</h3>{_decoders(page)}</div>",
        f"<div><h3>What the bits keep of the heatmaps</h3>{_targets(page)}</div>",
        "</div>",
    )


def _cost(cost: Cost | None) -> list[str]:
    if cost is None:
        return [""] * 5
    width, height = cost.input_wh
    size = [f"{cost.params / 1e6:.3f} M", f"{cost.macs / 1e9:.3f}", f"{cost.macs / 2**30:.3f}"] if cost.params else ["-"] * 3
    return [*size, f"{width}x{height}", f"{cost.latency_ms:.1f}"]


def _decoders(page: Page) -> str:
    names = list(page.decoders[0].ap)
    rows: list[Row] = [
        [
            Cell(row.name, words=True, who=row.who),
            *(Cell(ap_text(row.ap[name]), best=row.ap[name] == max(row.ap.values())) for name in names),
        ]
        for row in page.decoders
    ]
    return table(["", *names], rows)


def _targets(page: Page) -> str:
    rows: list[Row] = [
        [
            Cell(row.name, words=True, who=row.who),
            Cell(ap_text(row.ap_from_bits), best=True),
            ap_text(row.ap_float_quarter),
            ap_text(row.ap_float_dark),
        ]
        for row in page.targets
    ]
    head = ["", "from the cached bits", "float maps, quarter offset", "float maps, DARK"]
    told = paragraph("AP on the validation set without a flip test, of the same forward pass in all columns.", quiet=True)
    return table(head, rows) + told


def _differences(page: Page) -> str:
    note = paragraph(
        "The images of the validation set were drawn again with replacement 1000 times, the same draws for both of a pair. "
        "The interval says how much the choice of images matters; it does not cover what another seed of the training would "
        "change.",
        quiet=True,
    )
    rows: list[Row] = [
        [
            Cell(item.name_b, words=True, who=item.who),
            ap_text(item.bootstrap.ap_b),
            Cell(item.name_a, words=True),
            ap_text(item.bootstrap.ap_a),
            Cell(signed_text(item.bootstrap.difference), best=True),
            f"{signed_text(item.bootstrap.low)} to {signed_text(item.bootstrap.high)}",
            "yes" if is_significant(item.bootstrap) else "NO",
            f"{item.bootstrap.share_not_better:.1%}",
        ]
        for item in page.differences
    ]
    head = ["", "AP", "compared with", "AP", "difference", "95 % interval", "significant", "draws in which it is not better"]
    figure = differences_figure(page.differences) if page.differences else ""
    beside = f'<div class="figures">{figure}<div>{note}</div></div>'
    return section("differences", _SECTIONS["differences"], table(head, rows), beside)


def _curves(page: Page) -> str:
    figures = [curves_figure("Student and baseline", page.curves, page.phases)] if page.curves else []
    if page.teacher_curves:
        figures.append(curves_figure("Teachers", page.teacher_curves))
    note = paragraph(
        "Shaded: which teacher teaches, beside the labels where the schedule gives them a weight; labels alone where none "
        "does. The losses of student and baseline are of different targets (bits and labels, and labels alone), and their "
        "heights cannot be compared with each other.",
        quiet=True,
    )
    return section("curves", _SECTIONS["curves"], f'<div class="figures">{"".join(figures)}</div>', note)


def _overlays(page: Page) -> str:
    colours = "".join(
        f'<span><i style="background:rgb({red},{green},{blue})"></i>{escape(name.replace("_", " "))}</span>'
        for name, (red, green, blue) in zip(COCO_KEYPOINTS, JOINT_COLOURS.tolist(), strict=True)
    )
    told = paragraph(
        "People of the validation set, from those whom the student finds best to those whom it finds worst, at equal steps "
        "of rank by OKS. Rings are joints that are labelled as hidden, or predicted with a low score. "
        "PT and ST are the teachers' own joints.",
        quiet=True,
    )
    legend = f'<div class="joints">{colours}</div>'
    return section("overlays", _SECTIONS["overlays"], told, legend, *map(_person, page.overlays))


def _person(person: Person) -> str:
    heading = f'<h3>{escape(person.heading)} <span class="quiet">{escape(person.detail)}</span></h3>'
    return f'<div class="person">{heading}{tiles(person.tiles)}</div>'


def _worst(page: Page) -> str:
    told = paragraph(
        "The student's lowest OKS among people with at least five visible labelled joints. White lines lead from where "
        "a joint was predicted to a white dot where it is.",
        quiet=True,
    )
    people = "".join(map(_person, page.worst))
    return section("worst", _SECTIONS["worst"], told, f'<div class="worst">{people}</div>')


def _joints(page: Page) -> str:
    names = list(page.joint_series)
    rows: list[Row] = [
        [
            Cell(row.name.replace("_", " "), words=True),
            count_text(row.labelled),
            *(Cell(f"{row.share[name]:.1%}", best=row.share[name] == max(row.share.values())) for name in names),
        ]
        for row in page.joints
    ]
    told = paragraph(
        "Share of the labelled joints whose own similarity is at least .5, with people matched as for AP50; a joint of a "
        "person whom nobody found counts as missed.",
        quiet=True,
    )
    figure = (
        f'<div class="figures">{joints_figure(page.joints, page.joint_series)}{table(["", "labelled", *names], rows)}</div>'
    )
    return section("joints", _SECTIONS["joints"], told, figure)


def _cache(page: Page) -> str:
    head = ["", "views", "bytes", "a view", "a person and view", "as dense float16", "times smaller"]
    head += ["joints seen (training views)", "passes held", "passes in this run"]
    told = paragraph(
        "Each crop took one forward pass of its teacher, once; a later experiment on the same people with the same teachers "
        "reads the bits instead. Passes held are all of those, of the validation set too; passes in this run are those of the "
        "run that wrote this page, none where all was there. Joints seen are those of the "
        "training views whose peak is high enough to teach. The crops and masks that both teachers share take "
        f"{size_text(page.views_bytes, digits=3)} more. "
        "Dense float16 heatmaps are computed, not measured.",
        quiet=True,
    )
    if not page.cache:
        return section("cache", _SECTIONS["cache"], paragraph("The schedule reads no targets of a teacher."))
    return section("cache", _SECTIONS["cache"], table(head, [_cache_row(row) for row in page.cache]), told)


def _cache_row(row: CacheRow) -> Row:
    return [
        Cell(row.name, words=True, who=row.who),
        count_text(row.views),
        size_text(row.total_bytes, digits=3),
        size_text(row.bytes_per_view, digits=3),
        size_text(row.bytes_per_person, digits=3),
        size_text(row.dense_bytes_per_person, digits=3),
        f"{row.dense_bytes_per_person / row.bytes_per_person:,.0f}",
        f"{row.seen:.1%}",
        count_text(row.forwards_cached),
        count_text(row.forwards_now),
    ]


def _data(page: Page) -> str:
    rows: list[Row] = [[Cell(row.name, words=True), *map(count_text, _split_counts(row))] for row in page.splits]
    head = ["", "people", "images", "with a mask", "held out", "quarantined", "skipped by rule"]
    reasons: list[Row] = [
        [Cell(split.name, words=True), Cell(what, words=True), Cell(reason, words=True), count_text(count)]
        for split in page.splits
        for what, counts in (("quarantined", split.quarantined), ("skipped by rule", split.skipped))
        for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    why = [table(["", "", "reason", "records"], reasons)] if reasons else [paragraph("No record was left out.")]
    return section("data", _SECTIONS["data"], table(head, rows), *why)


def _split_counts(row: SplitRow) -> tuple[int, ...]:
    left_out = (sum(row.quarantined.values()), sum(row.skipped.values()))
    return (row.people, row.images, row.with_mask, row.held_out, *left_out)


def _sources(page: Page) -> str:
    rows: list[Row] = [
        [
            Cell(row.title, words=True),
            Cell(row.kind, words=True),
            Cell(row.key, code=True),
            size_text(row.size, digits=3),
            row.made_at,
            duration(row.seconds, decimals=1),
            row.entry_id,
        ]
        for row in page.entries
    ]
    total = size_text(sum(row.size for row in page.entries), digits=3)
    versions: list[Row] = [[Cell(name, words=True), version] for name, version in page.versions.items()]
    seconds = ", ".join(f"{stage} {duration(value, decimals=1)}" for stage, value in page.seconds.items())
    return section(
        "sources",
        _SECTIONS["sources"],
        paragraph(f"{len(page.entries)} entries of the store, {total} together."),
        table(["entry", "kind", "key", "size", "made", "took", "on"], rows),
        paragraph(
            "Took is from the start of an entry to its end. Entries that were made at the same time (trainings side by side, "
            "the targets of several views) each count that time, so the column is no sum.",
            quiet=True,
        ),
        paragraph(f"Stages before this one in the run that wrote the page: {seconds}.") if seconds else "",
        details("Settings, as resolved", f"<pre>{escape(page.settings_yaml)}</pre>"),
        details("Versions of the libraries", table(["library", "version"], versions)),
    )


def _foot(page: Page) -> str:
    return f'<footer class="quiet">Made again by <code>{escape(page.command)}</code></footer>'

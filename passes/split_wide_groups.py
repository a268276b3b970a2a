"""Members of a scale group have comparable ranges.

One scale for box coordinates (up to 640) and scores (up to 1) rounds every score to zero: the
classic loss of detection heads. A group whose members' amax differ by more than the guard of
`share-moved` is split; the requantization that this costs is reported.
"""

from __future__ import annotations

import math

from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep
from qdqgraph.planning.groups import Groups, Link


@sweep(stage="regroup")
def split_wide_groups(ctx: Context) -> None:
    """Take back links, widest first, until every group obeys its guard."""
    plan, ranges = ctx.plan, ctx.plan.ranges
    if not ranges:
        if any(link.guard for link in plan.links):
            plan.notices.append(
                "the range guard was not evaluated: there are no calibration ranges"
            )
        return
    groups = Groups()
    spans: dict[str, tuple[float, float]] = {q: (r, r) for q, r in ranges.items() if r > 0}
    kept: list[Link] = []
    for link in sorted(plan.links, key=lambda link: _distance(link, ranges)):
        a, b = groups.find(link.a), groups.find(link.b)
        known = [spans[root] for root in (a, b) if root in spans]
        low, high = min((s[0] for s in known), default=1.0), max((s[1] for s in known), default=1.0)
        if a != b and link.guard and high > low * link.guard:
            plan.notices.append(
                f"{link.reason} is split: {link.a} (amax {ranges.get(link.a, 0):.4g}) and {link.b} "
                f"(amax {ranges.get(link.b, 0):.4g}) differ more than {link.guard:g} times in "
                "one group; this costs a requantize"
            )
            continue
        kept.append(link)
        groups.union(a, b)
        if known:
            spans[groups.find(a)] = (low, high)
    if len(kept) < len(plan.links):
        plan.keep_links(kept)


def _distance(link: Link, ranges: dict[str, float]) -> tuple[float, str, str]:
    """How far apart two members are; links the guard cannot judge come first."""
    a, b = ranges.get(link.a, 0.0), ranges.get(link.b, 0.0)
    return (abs(math.log(a / b)) if a > 0 and b > 0 and link.guard else -1.0, link.a, link.b)

"""The outcome of a run as a person reads it; this is pure."""

import time
from collections.abc import Sequence

from phalanx.chaos.ledger import Offence, Pause
from phalanx.chaos.run import Outcome
from phalanx.chaos.schedule import Kind
from phalanx.chaos.verdict import End

MIB = 2**20
BEFORE = 10.0
"""Faults are told with a request that were under way within so many seconds before it was sent."""
WARM = 0.25
"""The first share of a run, in which memory says nothing of growth, since caches fill."""


def line(outcome: Outcome) -> str:
    """How the run goes, in one line."""
    ledger, ends = outcome.ledger, outcome.ledger.ends
    under_way = [str(record.fault.kind) for record in ledger.records if record.ended is None]
    return (
        f"{time.monotonic() - outcome.began:5.0f} s  faults {len(ledger.records)}  sent {ledger.sent}  "
        f"finished {ends[End.FINISHED]}  refused {ends[End.REFUSED]}  cut {ends[End.CUT]}  wrong {ends[End.WRONG]}  "
        f"lost {ends[End.LOST]}  {' '.join(under_way)}"
    )


def report(outcome: Outcome) -> str:
    """The whole outcome in several tables, and what there is to complain of."""
    plan = outcome.plan
    head = (
        f"{plan.seconds:g} s of chaos, seed {plan.seed}, {plan.ranks} ranks, {plan.api_servers} API servers, "
        f"{plan.concurrency} requests at a time, a fault every {plan.every:g} s"
    )
    parts = [head, _faults(outcome), _requests(outcome), _pauses(outcome)]
    if outcome.memory:
        parts.append(_memory(outcome.memory))
    parts += [_offence(outcome, offence) for offence in outcome.ledger.offences]
    parts += [f"NOT GOOD: {complaint}" for complaint in outcome.complaints]
    if outcome.log and not outcome.good:
        parts.append(f"The service's last words:\n{outcome.log}")
    parts.append("Nothing wrong, nothing lost, nothing left behind." if outcome.good else "This run failed.")
    return "\n\n".join(parts)


def _faults(outcome: Outcome) -> str:
    rows = []
    for kind in Kind:
        records = [record for record in outcome.ledger.records if record.fault.kind is kind]
        if kind in outcome.plan.kinds:
            recoveries = [record.recovery for record in records if record.recovery is not None]
            recovery = f"{max(recoveries):.2f} s" if recoveries else "-"
            pause = outcome.ledger.pauses_by_kind.get(kind)
            rows.append([kind, str(len(records)), recovery, "-" if pause is None else f"{pause:.2f} s"])
    return table(["fault", "number", "longest until it serves again", "longest pause of a stream meanwhile"], rows)


def _requests(outcome: Outcome) -> str:
    ledger = outcome.ledger
    rows = [["sent", str(ledger.sent)]]
    for end in End:
        rows.append([end, str(ledger.ends[end])])
        if end is End.REFUSED:
            rows += [[f"  {reason}", str(number)] for reason, number in sorted(ledger.refusals.items())]
    if ledger.unended:
        rows.append(["without an end", str(ledger.unended)])
    return table(["requests", "number"], rows)


def _pauses(outcome: Outcome) -> str:
    longest = outcome.ledger.pauses
    return table(
        ["longest pause of a stream", "seconds"],
        [[pause, f"{longest[pause]:.2f}" if pause in longest else "-"] for pause in Pause],
    )


def _memory(samples: Sequence[tuple[float, dict[str, int]]]) -> str:
    shown = samples[0], samples[len(samples) // 2], samples[-1]
    rows = []
    for name in (*samples[0][1], "all"):
        sizes = [(at, sum(by_kind.values()) if name == "all" else by_kind[name]) for at, by_kind in samples]
        grown = slope(sizes[int(len(sizes) * WARM) :])
        cells = [f"{dict(sizes)[at] / MIB:,.0f} MiB" for at, _ in shown]
        rows.append([name, *cells, "-" if grown is None else f"{grown * 60 / MIB:+.2f} MiB/min"])
    times = [f"at {at:.0f} s" for at, _ in shown]
    return table(["memory (PSS)", *times, "slope after warm-up"], rows)


def slope(samples: Sequence[tuple[float, int]]) -> float | None:
    """How fast a size grows, in bytes a second by least squares, or None where the samples are too few to tell."""
    if len(samples) < 3:
        return None
    at = sum(when for when, _ in samples) / len(samples)
    size = sum(bytes_ for _, bytes_ in samples) / len(samples)
    spread = sum((when - at) ** 2 for when, _ in samples)
    return sum((when - at) * (bytes_ - size) for when, bytes_ in samples) / spread if spread else None


def _offence(outcome: Outcome, offence: Offence) -> str:
    attempt, verdict = offence.attempt, offence.verdict
    sent, ended = attempt.response.sent_at - outcome.began, offence.at - outcome.began
    unknown = "an API server that did not say who it is"
    server = unknown if attempt.api_server is None else " ".join(map(str, attempt.api_server))
    lines = [
        f"{verdict.end.upper()}: {attempt.request}",
        f"  {verdict.reason}",
        f"  sent at {sent:.2f} s, ended at {ended:.2f} s, through {server}",
        f"  headers  {attempt.response.headers}",
        f"  expected {offence.expected}",
        f"  got      {verdict.got if verdict.got is not None else bytes(attempt.response.body)!r}",
        f"  seed {outcome.plan.seed}; faults around it:",
    ]
    for record in outcome.ledger.around(attempt.response.sent_at - BEFORE, offence.at):
        until = "still" if record.ended is None else f"{record.ended - outcome.began:.2f} s"
        lines.append(f"    {record.began - outcome.began:.2f} s to {until}: {record.fault} ({record.note})")
    return "\n".join(lines)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, with aligned columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in lines
    )

"""What the references of the builds reach, stage by stage: shown to who has not tried one yet.

The judges' starts are their own and always the same: there are no seeds to choose.
"""

import time

from _common import finish, parser, record, recorded

from mbrl_helpers.exercises import frame

NUMBERS = ("02.b", "03.b", "04.b", "05.b", "06.b", "07.b", "08.b", "09.b", "10.b", "11.b",
           "12.b")  # fmt: skip


def main() -> None:
    arguments = parser(__doc__, range(1))
    arguments.add_argument("--numbers", nargs="+", choices=NUMBERS, default=list(NUMBERS))
    options = arguments.parse_args()
    rows = []
    for number in options.numbers:
        task = frame.find(number)
        begin = time.perf_counter()
        for stage in task.judge(task.reference):
            row = {"build": number, "stage": stage.name}
            row |= {"measured": float(f"{stage.measured:.4g}"), "unit": stage.unit}
            row |= {"passed": stage.passed, "seconds": round(time.perf_counter() - begin, 1)}
            rows.append(row)
            print(*rows[-1].values(), flush=True)
            begin = time.perf_counter()
    if options.record:
        header, old = recorded("builds")
        kept = [row for row in old if row["build"] not in options.numbers]
        rows = sorted(kept + rows, key=lambda row: row["build"])  # stages stay in their order
        record("builds", rows, earlier=header if kept else [])
    finish("builds", passed=all(str(row["passed"]) == "True" for row in rows))


if __name__ == "__main__":
    main()

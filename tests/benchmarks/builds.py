"""What the references of the builds reach, stage by stage: shown to who has not tried one yet.

The judges' starts are their own and always the same: there are no seeds to choose.
"""

import time

from _common import finish, parser, record

from mbrl_helpers.exercises import frame

NUMBERS = ("02.b", "03.b", "04.b", "09.b", "11.b", "12.b")


def main() -> None:
    options = parser(__doc__, range(1)).parse_args()
    rows = []
    for number in NUMBERS:
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
        record("builds", rows)
    finish("builds", passed=all(row["passed"] for row in rows))


if __name__ == "__main__":
    main()

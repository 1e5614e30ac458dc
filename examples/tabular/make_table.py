"""Write tumours.csv and held_out.csv: five columns of the Wisconsin breast cancer data that scikit-learn carries.

Each row is a tumour, described by its cells under the microscope, with the diagnosis (Street, Wolberg, Mangasarian
1993).
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

COLUMNS = ("radius", "texture", "smoothness", "concavity", "symmetry")
HELD_OUT = 114
"""Rows that no site gets, a fifth: what the centre evaluates on."""


def main(directory: Path) -> None:
    cells = load_breast_cancer()
    places = [list(cells.feature_names).index(f"mean {name}") for name in COLUMNS]
    lines = [
        ",".join([*(f"{value:g}" for value in row[places]), cells.target_names[diagnosis]])
        for row, diagnosis in zip(cells.data, cells.target, strict=True)
    ]
    order = np.random.default_rng(1).permutation(len(lines))
    header = ",".join([*COLUMNS, "diagnosis"])
    for name, rows in {"held_out.csv": order[:HELD_OUT], "tumours.csv": order[HELD_OUT:]}.items():
        (directory / name).write_text("\n".join([header, *(lines[row] for row in sorted(rows))]) + "\n")


if __name__ == "__main__":
    main(Path(__file__).parent)

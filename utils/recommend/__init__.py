"""Recommendations of finished runs.

import utils.recommend

recommender = utils.recommend.load("output/Demo/MMHCL/demo")
for found in recommender.recommend(["B0001", "B0002"], k=5):
    print(found.rank, found.item, found.title, found.score)
"""


def load(run: str, data_dir: str = "datasets", model_name: str = "", device: str = "auto") -> "Recommender":  # noqa: F821
    """Load a finished run, or a committee of runs, to recommend items with.

    Args:
        run: its folder, output/DATASET/GNNMODEL/TARGET.
        data_dir: folder that holds sequential/DATASET/ with the data files that the run was trained on.
        model_name: base weights, if they have moved since the run; not for a committee.
        device: cuda, cpu or another torch device; auto: CUDA if available.

    Returns:
        The `utils.recommend.recommender.Recommender` of the run: `recommend(items, k)`, `history(user)`.

    Raises:
        FileNotFoundError: a file is missing; names it.
        ValueError: a file does not fit the run; names it.
    """
    from utils.recommend.recommender import load_recommender  # imports torch, which --help does not need

    return load_recommender(run, data_dir, model_name, device)

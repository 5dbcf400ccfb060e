"""Where cluster files are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.launch.cluster import cluster_names, load_cluster


def test_own_clusters_come_before_those_that_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person would have to write into site-packages."""
    monkeypatch.chdir(tmp_path)
    for folder, partition in (("clusters", "here"), ("shared", "there"), ("more", "elsewhere")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.yaml").write_text(f"partition: {partition}\n")
    (tmp_path / "shared" / "clusters.yaml").write_text("partition: hidden\n")
    (tmp_path / "shared" / "default.yaml").write_text("partition: ours\n")
    monkeypatch.setenv("PINECO_CLUSTERS", f"{tmp_path}/shared:{tmp_path}/more")
    assert {"clusters", "shared", "more", "default", "virtual"} <= set(cluster_names())
    assert load_cluster("clusters").partition == "here"
    assert load_cluster("default").partition == "ours"
    assert load_cluster("more").partition == "elsewhere"
    assert load_cluster(str(tmp_path / "shared" / "clusters.yaml")).partition == "hidden"
    with pytest.raises(InputError, match=r"mroe: no such cluster; did you mean more\? there are .*clusters/mroe"):
        load_cluster("mroe")

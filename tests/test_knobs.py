"""Which environment variables make configurations, which are named, which are refused, and which are nobody's."""

from __future__ import annotations

import pytest

from bench.provenance import allowed_environment
from results import knobs

HOROVOD = {"strategy": "horovod", "device_kind": "cpu", "requested_all_reduce": "auto", "num_ps": 0}
MWMS_ON_GPUS = {"strategy": "mwms", "device_kind": "gpu", "requested_all_reduce": "auto", "num_ps": 0}
HOROVOD_ON_GPUS = {**HOROVOD, "device_kind": "gpu"}
PS = {"strategy": "ps", "device_kind": "cpu", "requested_all_reduce": None, "num_ps": 1}
SINGLE = {"strategy": "single", "device_kind": "cpu", "requested_all_reduce": None, "num_ps": 0}

OF_THE_EXCHANGE = sorted(
    {(library, name) for library, each in knobs.EXCHANGE.items() for name in each.knobs if name not in knobs.FLAGS}
)

BY_MPIRUN = [
    *(
        "OMPI_MCA_ess_base_jobid",
        "OMPI_MCA_ess_base_vpid",
        "OMPI_MCA_ess",
        "OMPI_MCA_orte_hnp_uri",
    ),
    *(
        "OMPI_MCA_orte_local_daemon_uri",
        "OMPI_MCA_orte_ess_num_procs",
        "OMPI_MCA_orte_ess_node_rank",
    ),
    *(
        "OMPI_MCA_orte_app_num",
        "OMPI_MCA_orte_num_nodes",
        "OMPI_MCA_orte_tmpdir_base",
    ),
    *(
        "OMPI_MCA_orte_top_session_dir",
        "OMPI_MCA_orte_jobfam_session_dir",
        "OMPI_MCA_orte_precondition_transports",
    ),
    *(
        "OMPI_MCA_orte_bound_at_launch",
        "OMPI_MCA_orte_launch",
        "OMPI_MCA_pmix",
        "OMPI_MCA_initial_wdir",
    ),
    *(
        "OMPI_MCA_shmem_RUNTIME_QUERY_hint",
        "OMPI_MCA_mpi_oversubscribe",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_FIRST_RANKS",
    ),
    *(
        "OMPI_APP_CTX_NUM_PROCS",
        "PMIX_RANK",
        "PMIX_SERVER_URI2",
        "HOROVOD_RANK",
        "HOROVOD_GLOO_RENDEZVOUS_PORT",
    ),
]


@pytest.mark.parametrize(("library", "name"), OF_THE_EXCHANGE)
def test_a_knob_of_the_exchange_makes_another_configuration_where_it_acts(library: str, name: str) -> None:
    acts = {"gRPC": PS, "NCCL": MWMS_ON_GPUS, "Horovod on GPUs": HOROVOD_ON_GPUS}.get(library, HOROVOD)
    found = knobs.effects(acts, {}, {name: "7"})
    assert (dict(found.exchange), dict(found.variables), dict(found.named)) == ({name: "7"}, {}, {})
    elsewhere = knobs.effects(SINGLE, {}, {name: "7"})
    assert (dict(elsewhere.exchange), dict(elsewhere.named)) == ({}, {name: "7"})
    assert knobs.effects(acts, {}, {name: ""}) == knobs.effects(acts, {}, {})


@pytest.mark.parametrize("name", knobs.COMPUTE)
def test_a_knob_of_computing_makes_another_configuration(name: str) -> None:
    found = knobs.effects(SINGLE, {}, {name: "7"})
    assert (dict(found.exchange), dict(found.variables), dict(found.named)) == ({}, {name: "7"}, {})


@pytest.mark.parametrize("name", knobs.COMPUTE_ON_GPUS)
def test_a_knob_of_gpus_counts_on_gpus(name: str) -> None:
    assert dict(knobs.effects(MWMS_ON_GPUS, {}, {name: "7"}).variables) == {name: "7"}
    assert dict(knobs.effects(SINGLE, {}, {name: "7"}).named) == {name: "7"}


@pytest.mark.parametrize("name", knobs.NAMED)
def test_other_variables_are_named(name: str) -> None:
    found = knobs.effects(HOROVOD, {}, {name: "7"})
    assert (dict(found.exchange), dict(found.variables), dict(found.named)) == ({}, {}, {name: "7"})


@pytest.mark.parametrize("name", sorted(knobs.KNOBS))
def test_every_knob_is_recorded(name: str) -> None:
    kept = allowed_environment({name: "7"})
    assert kept == ({} if "AUTH" in name or "KEY" in name else {name: "7"})


@pytest.mark.parametrize("name", BY_MPIRUN)
def test_what_a_launcher_sets_for_each_job_or_rank_is_no_factor(name: str) -> None:
    found = knobs.effects(HOROVOD, {}, {name: "7"} if knobs.is_recorded(name) else {})
    assert found == knobs.effects(HOROVOD, {}, {})


@pytest.mark.parametrize("name", ["TF_CLI_ARGS", "TF_VAR_password", "TF_TOKEN_app_terraform_io", "TF_CLI_CONFIG_FILE"])
def test_variables_of_terraform_are_not_recorded(name: str) -> None:
    assert allowed_environment({name: "hunter2"}) == {}


@pytest.mark.parametrize(
    ("variable", "flags"),
    [
        ({"HOROVOD_FUSION_THRESHOLD": str(32 << 20)}, {"fusion_threshold_mib": "32"}),
        ({"HOROVOD_CYCLE_TIME": "2.5"}, {"cycle_time_ms": "2.5"}),
        ({"HOROVOD_CYCLE_TIME": "3"}, {"cycle_time_ms": "3.0"}),
        ({"HOROVOD_TIMELINE": "/t.json"}, {"timeline": "/t.json"}),
    ],
)
def test_a_knob_by_variable_equals_the_knob_by_flag(variable: dict[str, str], flags: dict[str, str]) -> None:
    assert knobs.effects(HOROVOD, {}, variable) == knobs.effects(HOROVOD, flags, {})
    assert knobs.effects(HOROVOD, flags, variable) == knobs.effects(HOROVOD, flags, {})
    assert [*knobs.contradictions(flags, variable)] == []
    ((name, field),) = knobs.contradictions(dict.fromkeys(flags, "9"), variable)
    assert {name} == variable.keys()
    assert {field} == flags.keys()


def test_a_threshold_that_the_flag_cannot_say_is_kept_as_it_is() -> None:
    assert dict(knobs.effects(HOROVOD, {}, {"HOROVOD_FUSION_THRESHOLD": "1000"}).exchange) == {
        "HOROVOD_FUSION_THRESHOLD": "1000"
    }


@pytest.mark.parametrize(
    "name",
    [
        *("NVIDIA_TF32_OVERRIDE", "TF_SET_ONEDNN_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE"),
        *("TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_LEVEL", "TF_ENABLE_AUTO_MIXED_PRECISION"),
    ],
)
def test_variables_that_change_the_arithmetic_are_refused(name: str) -> None:
    ((refused, flags),) = knobs.refusals({name: "1", "PATH": "/bin"})
    assert refused == name
    assert "--precision" in flags
    assert knobs.refusals({name: ""}) == []


def test_no_knob_is_in_two_tables() -> None:
    exchange = {name for each in knobs.EXCHANGE.values() for name in each.knobs}
    tables = [exchange, {*knobs.COMPUTE}, {*knobs.COMPUTE_ON_GPUS}, {*knobs.NAMED}]
    assert sum(map(len, tables)) == len(knobs.KNOBS)

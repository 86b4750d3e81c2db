"""The environment variables that change how fast a run is: which of them belong to a configuration, which are named.

Every knob is listed by its whole name: launchers set variables that look alike (mpirun sets some twenty `OMPI_MCA_*`)
and differ from job to job and from rank to rank. A knob of the gradient exchange joins `runs.exchange`, under the name
of its flag where it has one, one that decides how a process computes joins `runs.variables`; both are comparable. What
is left of a record's environment is named where it differs, and is not a reason to keep runs apart: where things lie,
which interface is used, what is logged.

What a run of an earlier schema did not record counts as not set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Library:
    """The knobs of one library that carries gradients: they count where it may carry those of a run."""

    strategies: frozenset[str]
    """Those that may use it."""
    gpus: bool = False
    """It serves GPUs alone."""
    knobs: tuple[str, ...]


def _names(prefix: str, words: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{word}" for word in words.split())


_HOROVOD = frozenset({"horovod"})
_MANY_GPUS = frozenset({"horovod", "mirrored", "mwms"})

EXCHANGE: Mapping[str, Library] = {
    # https://horovod.readthedocs.io/en/stable/ and horovod/common/common.h of 0.28
    "Horovod": Library(
        strategies=_HOROVOD,
        knobs=_names(
            "HOROVOD_",
            "FUSION_THRESHOLD CYCLE_TIME TIMELINE TIMELINE_MARK_CYCLES CACHE_CAPACITY AUTOTUNE "
            "AUTOTUNE_WARMUP_SAMPLES AUTOTUNE_STEPS_PER_SAMPLE AUTOTUNE_BAYES_OPT_MAX_SAMPLES "
            "AUTOTUNE_GAUSSIAN_PROCESS_NOISE DISABLE_GROUP_FUSION THREAD_AFFINITY ADASUM_MPI_CHUNK_SIZE "
            "MPI_THREADS_DISABLE ENABLE_XLA_OPS ELASTIC",
        ),
    ),
    "Horovod on GPUs": Library(
        strategies=_HOROVOD,
        gpus=True,
        knobs=_names(
            "HOROVOD_",
            "HIERARCHICAL_ALLREDUCE HIERARCHICAL_ALLGATHER TORUS_ALLREDUCE NUM_NCCL_STREAMS BATCH_D2D_MEMCOPIES",
        ),
    ),
    # https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html
    "NCCL": Library(
        strategies=_MANY_GPUS,
        gpus=True,
        knobs=_names(
            "NCCL_",
            "ALGO PROTO NTHREADS BUFFSIZE MIN_NCHANNELS MAX_NCHANNELS MIN_CTAS MAX_CTAS LL_THRESHOLD P2P_DISABLE "
            "P2P_LEVEL P2P_DIRECT_DISABLE SHM_DISABLE IB_DISABLE NET NET_GDR_LEVEL NET_GDR_READ NET_SHARED_BUFFERS "
            "SOCKET_NTHREADS NSOCKS_PERTHREAD CROSS_NIC COLLNET_ENABLE NVLS_ENABLE PXN_DISABLE P2P_PXN_LEVEL "
            "P2P_NET_CHUNKSIZE IB_QPS_PER_CONNECTION IB_SPLIT_DATA_ON_QPS IB_TC IB_SL IB_AR_THRESHOLD "
            "IB_ADAPTIVE_ROUTING IB_PCI_RELAXED_ORDERING IB_MERGE_VFS IB_MERGE_NICS IB_TIMEOUT CUMEM_ENABLE "
            "CUMEM_HOST_ENABLE LAUNCH_MODE WORK_FIFO_DEPTH GRAPH_MIXING_SUPPORT MNNVL_ENABLE",
        ),
    ),
    # `ompi_info --param all all --level 9` of Open MPI 4.1 and 5.0
    "Open MPI": Library(
        strategies=_HOROVOD,
        knobs=_names(
            "OMPI_MCA_",
            "btl pml mtl coll osc op mpi_leave_pinned mpi_leave_pinned_pipeline mpi_yield_when_idle mpi_preconnect_mpi "
            "opal_cuda_support opal_progress_yield_when_idle btl_tcp_eager_limit btl_tcp_rndv_eager_limit "
            "btl_tcp_max_send_size btl_tcp_rdma_pipeline_send_length btl_tcp_sndbuf btl_tcp_rcvbuf btl_tcp_links "
            "btl_tcp_use_nagle btl_tcp_progress_thread btl_vader_eager_limit btl_vader_max_send_size "
            "btl_vader_rndv_eager_limit btl_vader_single_copy_mechanism btl_vader_backing_directory "
            "btl_vader_fbox_threshold btl_vader_fbox_max btl_vader_fbox_size btl_vader_memcpy_limit "
            "btl_vader_segment_size btl_sm_eager_limit btl_sm_max_send_size btl_sm_rndv_eager_limit "
            "btl_sm_single_copy_mechanism btl_sm_backing_directory btl_openib_allow_ib btl_openib_eager_limit "
            "btl_openib_flags btl_openib_receive_queues btl_smcuda_use_cuda_ipc pml_ob1_priority pml_cm_priority "
            "pml_ucx_priority pml_ucx_tls pml_ob1_send_pipeline_depth pml_ob1_recv_pipeline_depth "
            "coll_tuned_priority coll_tuned_use_dynamic_rules coll_tuned_dynamic_rules_filename "
            "coll_tuned_allreduce_algorithm coll_tuned_allreduce_algorithm_segmentsize "
            "coll_tuned_allreduce_algorithm_tree_fanout coll_tuned_allreduce_algorithm_chain_fanout "
            "coll_tuned_bcast_algorithm coll_tuned_bcast_algorithm_segmentsize coll_tuned_allgather_algorithm "
            "coll_tuned_allgatherv_algorithm coll_tuned_gather_algorithm coll_tuned_reduce_algorithm "
            "coll_tuned_reduce_scatter_algorithm coll_tuned_barrier_algorithm coll_tuned_alltoall_algorithm "
            "coll_hcoll_enable coll_hcoll_priority coll_han_priority coll_han_use_simple_allreduce "
            "coll_adapt_priority coll_basic_priority coll_sm_priority coll_libnbc_priority coll_ucc_enable "
            "coll_ucc_priority coll_cuda_priority coll_sync_priority mtl_ofi_provider_include "
            "mtl_ofi_provider_exclude",
        ),
    ),
    # https://www.mpich.org and Intel MPI's developer reference
    "MPICH": Library(
        strategies=_HOROVOD,
        knobs=(
            *_names(
                "MPIR_CVAR_",
                "ALLREDUCE_INTRA_ALGORITHM ALLREDUCE_SHORT_MSG_SIZE BCAST_INTRA_ALGORITHM ASYNC_PROGRESS "
                "ENABLE_SMP_COLLECTIVES CH4_NETMOD CH4_SHM_POSIX_EAGER CH4_OFI_ENABLE_HMEM DEVICE_COLLECTIVES "
                "COLL_SELECTION_TUNING_JSON_FILE",
            ),
            *_names("MPICH_", "ASYNC_PROGRESS GPU_SUPPORT_ENABLED OFI_NUM_NICS SMP_SINGLE_COPY_MODE RDMA_ENABLED_CUDA"),
            *_names(
                "I_MPI_",
                "FABRICS SHM OFI_PROVIDER ADJUST_ALLREDUCE ADJUST_BCAST ASYNC_PROGRESS ASYNC_PROGRESS_THREADS PIN "
                "PIN_DOMAIN PIN_PROCESSOR_LIST OFFLOAD WAIT_MODE THREAD_YIELD",
            ),
            *_names("MV2_", "USE_CUDA ENABLE_AFFINITY CPU_BINDING_POLICY SMP_USE_CMA USE_RDMA_CM IBA_EAGER_THRESHOLD"),
        ),
    ),
    # `ucx_info -f`, `fi_info -e`: what MPI libraries carry their messages by
    "UCX": Library(
        strategies=_HOROVOD,
        knobs=_names(
            "UCX_",
            "TLS SHM_DEVICES RNDV_THRESH RNDV_SCHEME ZCOPY_THRESH BCOPY_THRESH MAX_EAGER_RAILS MAX_RNDV_RAILS "
            "MEMTYPE_CACHE PROTO_ENABLE UNIFIED_MODE ADAPTIVE_PROGRESS USE_MT_MUTEX IB_SL IB_TRAFFIC_CLASS "
            "IB_NUM_PATHS IB_PCI_RELAXED_ORDERING IB_GPU_DIRECT_RDMA IB_REG_METHODS RC_PATH_MTU DC_MLX5_NUM_DCI "
            "UD_MLX5_TIMEOUT TCP_TX_SEG_SIZE TCP_RX_SEG_SIZE TCP_MAX_CONN_RETRIES CUDA_COPY_MAX_REG_RATIO "
            "CUDA_IPC_CACHE POSIX_USE_PROC_LINK SYSV_HUGETLB_MODE",
        ),
    ),
    "libfabric": Library(
        strategies=_HOROVOD,
        knobs=_names(
            "FI_",
            "PROVIDER PROVIDER_PATH MR_CACHE_MONITOR MR_CACHE_MAX_COUNT MR_CACHE_MAX_SIZE OFI_RXM_USE_SRX "
            "OFI_RXM_BUFFER_SIZE OFI_RXM_SAR_LIMIT TCP_NODELAY EFA_USE_DEVICE_RDMA EFA_FORK_SAFE "
            "EFA_ENABLE_SHM_TRANSFER CXI_RDZV_THRESHOLD CXI_RDZV_PROTO CXI_RX_MATCH_MODE CXI_DEFAULT_CQ_SIZE "
            "CXI_OPTIMIZED_MRS PSM2_DISCONNECT VERBS_USE_ODP SHM_DISABLE_CMA HMEM_CUDA_USE_GDRCOPY UNIVERSE_SIZE",
        ),
    ),
    # https://github.com/grpc/grpc/blob/master/doc/environment_variables.md
    "gRPC": Library(
        strategies=frozenset({"mwms", "ps"}),
        knobs=_names("GRPC_", "POLL_STRATEGY EXPERIMENTS CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS"),
    ),
}
"""What may carry gradients -> its knobs."""

COMPUTE = (
    *("XLA_FLAGS", "TF_XLA_FLAGS", "LD_PRELOAD"),
    *_names("ONEDNN_", "MAX_CPU_ISA CPU_ISA_HINTS PRIMITIVE_CACHE_CAPACITY"),
    *_names("DNNL_", "MAX_CPU_ISA CPU_ISA_HINTS PRIMITIVE_CACHE_CAPACITY"),
    *_names(
        "TF_",
        "ONEDNN_USE_SYSTEM_ALLOCATOR MKL_ALLOC_MAX_BYTES MKL_OPTIMIZE_PRIMITIVE_MEMUSE DETERMINISTIC_OPS "
        "CUDNN_DETERMINISTIC USE_LEGACY_KERAS DISABLE_MKL",
    ),
    *_names(
        "OMP_",
        "NUM_THREADS PROC_BIND PLACES SCHEDULE DYNAMIC WAIT_POLICY STACKSIZE THREAD_LIMIT MAX_ACTIVE_LEVELS NESTED",
    ),
    *("GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT"),
    *_names("KMP_", "AFFINITY BLOCKTIME HW_SUBSET LIBRARY SETTINGS STACKSIZE TPAUSE USE_YIELD"),
    *_names("MKL_", "NUM_THREADS DYNAMIC ENABLE_INSTRUCTIONS CBWR DEBUG_CPU_TYPE DISABLE_FAST_MM"),
    *_names(
        "MALLOC_",
        "ARENA_MAX ARENA_TEST MMAP_THRESHOLD_ MMAP_MAX_ TRIM_THRESHOLD_ TOP_PAD_ PERTURB_ CHECK_ CONF",
    ),
    *("GLIBC_TUNABLES", "JEMALLOC_CONF", "MIMALLOC_ALLOW_LARGE_OS_PAGES", "MIMALLOC_RESERVE_HUGE_OS_PAGES"),
    *_names("TCMALLOC_", "MAX_TOTAL_THREAD_CACHE_BYTES RELEASE_RATE LARGE_ALLOC_REPORT_THRESHOLD"),
)
"""Knobs of how a process computes, on any device."""

COMPUTE_ON_GPUS = (
    *_names(
        "CUDA_",
        "LAUNCH_BLOCKING MODULE_LOADING FORCE_PTX_JIT DISABLE_PTX_JIT DEVICE_MAX_CONNECTIONS CACHE_DISABLE "
        "MPS_ACTIVE_THREAD_PERCENTAGE MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING AUTO_BOOST "
        "DEVICE_WAITS_ON_EXCEPTION",
    ),
    *_names(
        "TF_",
        "GPU_ALLOCATOR GPU_THREAD_MODE GPU_THREAD_COUNT FORCE_GPU_ALLOW_GROWTH FORCE_UNIFIED_MEMORY "
        "CUDNN_USE_AUTOTUNE CUDNN_USE_FRONTEND CUDNN_USE_RUNTIME_FUSION CUDNN_WORKSPACE_LIMIT_IN_MB "
        "CUBLAS_WORKSPACE_LIMIT_IN_MB USE_CUBLASLT ENABLE_GPU_GARBAGE_COLLECTION GPU_HOST_MEM_LIMIT_IN_MB "
        "PER_DEVICE_MEMORY_LIMIT_MB",
    ),
    *("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_HEURISTICS_CACHE_CAPACITY"),
)
"""The same of what computes on a GPU."""

NAMED = (
    *("KERAS_BACKEND", "KERAS_HOME", "LD_LIBRARY_PATH", "CUDA_DEVICE_ORDER", "CUDA_CACHE_PATH"),
    *("CUDA_CACHE_MAXSIZE", "CUDA_MPS_PIPE_DIRECTORY", "TF_ENABLE_ONEDNN_OPTS", "ONEDNN_VERBOSE", "DNNL_VERBOSE"),
    *("KMP_INIT_AT_FORK", "MKL_VERBOSE", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    *("OMP_DISPLAY_ENV", "TF_CPU_ALLOCATOR_USE_BFC", "TF_CPU_BFC_MEM_LIMIT_IN_MB"),
    *_names("NCCL_", "SOCKET_IFNAME IB_HCA IB_GID_INDEX DEBUG DEBUG_SUBSYS NET_PLUGIN TUNER_PLUGIN TOPO_FILE"),
    *_names("HOROVOD_", "GLOO_IFACE GLOO_TIMEOUT_SECONDS CONTROLLER CPU_OPERATIONS STALL_CHECK_DISABLE"),
    *_names("OMPI_MCA_", "btl_tcp_if_include btl_tcp_if_exclude oob_tcp_if_include pml_ucx_devices"),
    *_names("OMPI_MCA_", "hwloc_base_binding_policy rmaps_base_mapping_policy"),
    *_names("UCX_", "NET_DEVICES IB_GID_INDEX LOG_LEVEL"),
    *_names("FI_", "TCP_IFACE SOCKETS_IFACE VERBS_IFACE LOG_LEVEL CXI_DEVICE_NAME"),
    *("GRPC_TRACE", "GRPC_VERBOSITY"),
)
"""Variables of places and logs, and those that a run's own settings outdo: named where they differ."""

ARITHMETIC: Mapping[str, str] = {
    "NVIDIA_TF32_OVERRIDE": "--precision tf32 or --precision fp32",
    "(TF_SET_ONEDNN|ONEDNN_DEFAULT|DNNL_DEFAULT)_FPMATH_MODE": "--precision bf16 or --precision fp16",
    r"TF_(ENABLE_)?AUTO_MIXED_PRECISION(_\w+)?": "--precision bf16 or --precision fp16",
}
"""Names of variables that change the arithmetic behind `--precision`, which runs refuse -> the flags that ask for the
same."""

_CONTEXT = re.compile(
    r"SLURM_\w+|TF_CONFIG|CUDA_VISIBLE_DEVICES|TF_CPP_\w+|HOROVOD_LOG_\w+|NCCL_DEBUG_FILE|NCCL_COMM_ID"
    r"|HOROVOD_(LOCAL_|CROSS_)?(RANK|SIZE)|HOROVOD_HOSTNAME|HOROVOD_GLOO_RENDEZVOUS_\w+"
)
"""Recorded, and different in each job or rank, or of the log alone: it says nothing about two sets of runs."""

_FAMILIES = re.compile(r"(?!TF_(CLI|VAR|TOKEN)_)(TF|NCCL|HOROVOD|OMP|SLURM)_\w+|CUDA_VISIBLE_DEVICES")
"""What is recorded besides, for a reader: a variable of these that no table lists is named. Terraform's are not
TensorFlow's, and hold secrets."""

_MIB = 1 << 20


def _integer(text: str) -> int:
    """As C's strtol reads it."""
    number = re.match(r"\s*[+-]?\d+", text)
    return int(number[0]) if number else 0


def _mib(text: str) -> str | None:
    size = _integer(text)
    return str(size // _MIB) if size >= 0 and size % _MIB == 0 else None


def _milliseconds(text: str) -> str | None:
    try:
        return str(float(text))
    except ValueError:
        return None


def _switch(text: str) -> str | None:
    return "True" if _integer(text) > 0 else ""


FLAGS: Mapping[str, tuple[str, Callable[[str], str | None]]] = {
    "HOROVOD_FUSION_THRESHOLD": ("fusion_threshold_mib", _mib),
    "HOROVOD_CYCLE_TIME": ("cycle_time_ms", _milliseconds),
    "HOROVOD_HIERARCHICAL_ALLREDUCE": ("hierarchical_all_reduce", _switch),
    "HOROVOD_TIMELINE": ("timeline", str),
}
"""Knob -> the setting of `runs.exchange` that a flag turns, and its value there: None where the flag cannot say that,
empty where it is the default."""

_ORDER = (
    *("parameter_device", "num_ps", "controller", "fusion_threshold_mib", "cycle_time_ms", "compression"),
    *("hierarchical_all_reduce", "timeline"),
)
"""In which flags stand in `runs.exchange`, before variables by name."""

KNOBS = frozenset({*COMPUTE, *COMPUTE_ON_GPUS, *NAMED, *(name for each in EXCHANGE.values() for name in each.knobs)})
"""The names of all knobs."""


def is_recorded(name: str) -> bool:
    """Return whether a variable belongs into a record."""
    return name in KNOBS or _FAMILIES.fullmatch(name) is not None


@dataclass(frozen=True, kw_only=True)
class Effects:
    """What the environment of a run changes."""

    exchange: Mapping[str, str]
    """`runs.exchange`: the settings of its flags, and the variables that turn others."""
    variables: Mapping[str, str]
    """`runs.variables`."""
    named: Mapping[str, str]
    """The other recorded variables that two sets of runs may differ in."""


def effects(run: Mapping[str, Any], flags: Mapping[str, str], environment: Mapping[str, str]) -> Effects:
    """Sort the recorded `environment` of a run. `run` holds the fields `strategy`, `device_kind`,
    `requested_all_reduce` and `num_ps` of its row, `flags` the exchange settings of its flags, which win.

    A knob counts where it can act: NCCL's on GPUs, Horovod's under horovod, none of the exchange where nothing is
    exchanged. Elsewhere it is named. An empty variable is one that is not set.
    """
    set_here = {name: value for name, value in environment.items() if value and not _CONTEXT.fullmatch(name)}
    on_gpus = run.get("device_kind") == "gpu"
    exchange, used = dict(flags), set()
    for name in _acting(run, on_gpus) & set_here.keys():
        field, value = _exchange_setting(name, set_here[name])
        used.add(name)
        if value:
            exchange.setdefault(field, value)
    computing = {*COMPUTE, *(COMPUTE_ON_GPUS if on_gpus else ())} & set_here.keys()
    return Effects(
        exchange={name: exchange[name] for name in sorted(exchange, key=_place)},
        variables={name: set_here[name] for name in sorted(computing)},
        named={name: set_here[name] for name in sorted(set_here.keys() - used - computing)},
    )


def _acting(run: Mapping[str, Any], on_gpus: bool) -> set[str]:
    if run.get("requested_all_reduce") is None and not run.get("num_ps"):
        return set()
    libraries = [each for each in EXCHANGE.values() if run.get("strategy") in each.strategies and on_gpus >= each.gpus]
    return {name for library in libraries for name in library.knobs}


def _exchange_setting(name: str, value: str) -> tuple[str, str]:
    if name in FLAGS:
        field, convert = FLAGS[name]
        if (converted := convert(value)) is not None:
            return field, converted
    return name, value


def _place(name: str) -> tuple[int, str]:
    return (_ORDER.index(name), "") if name in _ORDER else (len(_ORDER), name)


def refusals(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (variable, the flags to use instead) for each variable that a run refuses."""
    return [
        (name, flags)
        for name in sorted(environment)
        for pattern, flags in ARITHMETIC.items()
        if environment[name] and re.fullmatch(pattern, name)
    ]


def contradictions(flags: Mapping[str, str], environment: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """(variable, setting of a flag) that are both given and differ; `flags` as in `effects`."""
    for name, (field, _) in FLAGS.items():
        both = name in environment and field in flags
        if both and _exchange_setting(name, environment[name]) != (field, flags[field]):
            yield name, field


def columns(run: Mapping[str, Any]) -> dict[str, Any]:
    """The columns `exchange` and `variables` of a row of `runs` with its provenance."""
    environment = run["provenance"].get("environment") or {}
    found = effects(run, run.get("exchange") or {}, environment)
    return {"exchange": dict(found.exchange), "variables": dict(found.variables)}


def as_text(settings: Mapping[str, str]) -> str:
    """Settings in a line, as the analysis compares and shows them."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def parse_map(settings: str | None) -> dict[str, str]:
    """A map that DuckDB gave as JSON."""
    return dict(json.loads(settings)) if settings else {}

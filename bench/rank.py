"""One rank's part in a run: to meet the others, build, measure, and say every step of the way to its shard."""

from __future__ import annotations

import itertools
import json
import math
import os
import resource
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench import __version__, frameworks, output, provenance, run_columns
from bench.agreement import compare
from bench.bounds import Bounds
from bench.clock import Clock
from bench.errors import EnvironmentFault, gist
from bench.evaluating import Evaluations
from bench.evidence import Evidence, digest
from bench.extras import EXTRAS, Extras
from bench.measure import Schedule, measure
from bench.placement import seen_cores, settle_cores
from bench.plan import Plan, on_other_cores
from bench.ranklog import RankLog
from bench.telemetry import Gpus, OtherLoad, ProcessSampler, Sampler
from bench.workloads import workload
from jobs import mpi
from jobs.rendezvous import Rendezvous
from results.store import Store
from results.writing import replacing
from strategies.base import Data, HeldOut, Steps, Trainer

_NO_PROXY = "no_grpc_proxy"
"""gRPC reads it before no_proxy."""

_CLOCK_SET = "in some iterations: the host's clock was set while they ran"


class Rank:
    """One rank of one run. `run_id` is None until the rendezvous where another host's supervisor chose it."""

    def __init__(
        self,
        plan: Plan,
        *,
        store: Store,
        run_id: str | None,
        log: RankLog,
        bounds: Bounds,
        clock: Clock,
        gpus: Gpus,
        sampled: Gpus | None,
    ) -> None:
        self._plan = plan
        self._store = store
        self._run_id = run_id
        self._log = log
        self._bounds = bounds
        self._clock = clock
        self._gpus = gpus
        self._sampled = sampled
        self._trainer: Trainer | None = None
        self._read: list[Data | HeldOut] = []
        self._processes: dict[int, float] = {}
        self._meeting: Rendezvous | None = None
        # Far below the bound on building and finishing, which is ten times --step-timeout.
        limit_s = plan.config.machine.step_timeout or math.inf
        self._extras = Extras(lambda reasons: self._log.shard.update_run(null_reasons=reasons), limit_s)
        self._schedule: Schedule
        self._num_samples = self._num_test_samples = 0

    def train(self, listen: Callable[[], None]) -> None:
        """From the rendezvous to the end of the last iteration. Raises whatever goes wrong. `listen`: see
        `bench.stopping.stoppable`."""
        log, strategy = self._log, self._plan.strategy
        log.enter("import")
        forked = frameworks.preloaded()
        frameworks.load()
        log.enter("rendezvous")
        if forked:
            log.forget_start()
        began_s = time.monotonic()
        if not strategy.cluster.meeting_points:
            strategy.cluster = mpi.locate(strategy.cluster, os.environ)
        left_s = self._plan.config.machine.rendezvous_timeout - (time.monotonic() - began_s)
        self._meeting = meeting = Rendezvous(strategy.cluster, left_s)
        strategy.cluster = meeting.cluster
        self._introduce(meeting)
        _no_proxy({task.host for task in meeting.cluster.tasks})
        strategy.connect(meeting.exchange)
        meeting.settle()
        listen()  # MultiWorkerMirroredStrategy replaces the handler by one that ignores SIGTERM
        samplers = self._start_samplers()
        try:
            log.enter("build")
            self._describe_peak(meeting)
            # Held to the end of the process: to let go of it takes TensorFlow seconds.
            self._trainer = trainer = self._build()
            if trainer is None:
                log.enter("serve")
                meeting.exchange(b"")
            else:
                self._measure(trainer, meeting)
            # Nobody leaves while another still needs it, and who serves is watched until then.
            meeting.exchange(b"")
            log.enter("leave")
        finally:
            self._stop_samplers(samplers)
            log.note(peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        strategy.close()
        mpi.leave()

    @property
    def has_read(self) -> bool:
        """Whether files were opened that may be at fault."""
        return bool(self._read)

    def fault(self, problem: Exception, deadline: float) -> str | None:
        """What is wrong with which file, where that made `problem`. It is looked for until `deadline` [monotonic s]."""
        return next(filter(None, (source.fault(problem, deadline) for source in self._read)), None)

    def part(self) -> None:
        """Lets go of the other ranks, when all has gone well."""
        if self._meeting:
            self._meeting.close()

    def _build(self) -> Trainer | None:
        plan, settings = self._plan, self._plan.config.workload
        job = workload(
            model=settings.model,
            image_size=settings.image_size,
            num_classes=settings.num_classes,
            dataset=settings.dataset,
            data_dir=settings.data_dir,
            seed=settings.seed,
            batch_per_device=plan.batch_per_device,
            global_batch=plan.global_batch,
            steps=lambda num_samples: plan.schedule(num_samples).num_batches,
            numerics=plan.config.numerics,
            optimizer=plan.config.training.optimizer,
            learning_rate=plan.learning_rate,
            rate_warmup=plan.rate_warmup,
            forward=plan.forward,
            split="train" if plan.config.training.epochs is None else "rest",
            provable=plan.config.output.evidence is not None,
            cache=settings.cache,
            freeze=settings.freeze,
            weights=settings.weights,
            classes=settings.classes,
            num_train_samples=settings.num_train_samples,
            tell=output.tell if self._rank == 0 else lambda line: None,
        )
        self._read = [job.data, *([job.held_out] if job.held_out else [])]
        self._num_samples = job.data.num_samples
        self._num_test_samples = job.held_out.num_samples if job.held_out else 0
        self._schedule = plan.schedule(job.data.num_samples)
        if self._rank == 0:
            self._describe_data(job.data)
        trainer = plan.strategy.trainer(job)
        if trainer is not None:
            if self._rank == 0:
                self._log.shard.update_run(num_iters=self._schedule.num_iters)
                self._describe_model(trainer.model)
                held_bytes = job.data.held_bytes + (job.held_out.held_bytes if job.held_out else 0)
                self._extend("predicted memory", lambda: run_columns.of_memory(plan, trainer, held_bytes))
            self._log.note(devices=trainer.devices())
        return trainer

    def _measure(self, trainer: Trainer, meeting: Rendezvous) -> None:
        plan, log = self._plan, self._log
        log.enter("trace")
        traces = 0
        load: OtherLoad | None = None

        def warm() -> None:
            nonlocal traces, load
            traces = trainer.traces()
            self._extras.measure("allocator", trainer.reset_peak_memory)
            if plan.strategy.cluster.local_rank == 0:
                load = self._extras.measure("other load", lambda: OtherLoad(self._processes))
            self._bounds.wait_for_others()
            meeting.exchange(b"")  # all ranks begin together
            log.timing_begins()

        timed = itertools.count()
        folder = plan.config.output.evidence
        evidence = Evidence(trainer.weights(0)) if folder else None

        evaluations = Evaluations(
            plan,
            self._schedule,
            num_samples=self._num_test_samples,
            exchange=meeting.exchange,
            log=log,
            bounds=self._bounds,
            clock=self._clock,
            run_id=self._run_id,
        )

        def evaluate(epoch: int, train_s: float) -> bool:
            self._read.reverse()  # a fault is looked for in what was read last
            done = evaluations.perform(trainer, epoch, train_s)
            self._read.reverse()
            return done

        def keep(row: dict[str, Any], steps: Steps) -> None:
            log.shard.add_iter(row)
            evaluations.stepped(row)
            if reasons := {name: _CLOCK_SET for name in ("data_wait_s", "compute_s") if row[name] is None}:
                log.shard.update_run(null_reasons=reasons)
            self._bounds.stepped(row)
            if evidence is not None:
                evidence.add(steps)
            if self._rank == 0 and not row["warmup"]:
                output.print_iter(plan, row, next(timed))

        measure(
            trainer,
            self._schedule,
            self._clock,
            on_traced=lambda: log.enter("warmup"),
            on_warm=warm,
            on_iter=keep,
            on_epoch=evaluate,
        )
        log.enter("finish")
        log.note(
            other_cores=self._extras.measure("other load", load.cores) if load else None,
            retraces=trainer.traces() - traces,
            framework_peak_mem_bytes=self._extras.measure("allocator", trainer.peak_memory_bytes),
            weight_digests=[digest(trainer.weights(replica)) for replica in range(plan.strategy.local_replicas)],
        )
        if folder is not None and evidence is not None:
            evidence.save(
                folder,
                self._rank,
                num_samples=self._num_samples,
                updates=trainer.updates(),
                weights=trainer.weights(0),
            )
        if self._rank == 0:
            log.shard.update_run(**run_columns.of_exchange(plan, trainer.all_reduce()))
            self._extend("libraries", lambda: run_columns.of_libraries(plan))
            if (path := plan.config.training.save_model) is not None:
                _save(trainer, path)
            # Last, for it traces the model once more, for seconds where that is large.
            self._extend("FLOPs", lambda: run_columns.of_arithmetic(plan, trainer.model))

    def _extend(self, extra: str, fields: Callable[[], dict[str, Any]]) -> None:
        """Add fields of `runs` that are beside the training."""
        self._log.shard.update_run(**(self._extras.measure(extra, fields) or {}))

    @property
    def _rank(self) -> int:
        return self._plan.strategy.cluster.rank

    def _introduce(self, meeting: Rendezvous) -> None:
        """Learns the run's id from rank 0 and how far this host's clock is from rank 0's, and sees that all ranks are
        of one kind. Raises UsageError or EnvironmentFault, the same on every rank."""
        me = {
            "run_id": self._run_id,
            "hostname": socket.gethostname(),
            "settings": self._plan.fingerprint(),
            "weights": self._plan.weights,
            "data": self._plan.data,
            "gpus": self._own_gpus(),
            **seen_cores(self._plan.strategy.local_replicas),
            "process": [os.getpid(), psutil.Process().create_time()],
            "versions": {"TrainScale": __version__, **provenance.framework_versions()},
        }
        ranks = [json.loads(text) for text in meeting.exchange(json.dumps(me).encode())]
        # All leave that exchange at the same moment, so what their clocks say now differs by their offsets.
        clocks = [int(text) for text in meeting.exchange(str(self._clock.now_ns()).encode())]
        self._log.open(self._store, ranks[0]["run_id"], self._rank)
        compare(ranks)
        self._settle_cores(ranks)
        self._processes = dict(rank["process"] for rank in ranks if rank["hostname"] == me["hostname"])
        same_host = me["hostname"] == ranks[0]["hostname"]
        self._log.note(clock_offset_ns=0 if same_host else clocks[self._rank] - clocks[0])
        if self._rank == 0:
            self._log.shard.update_run(num_nodes=len({rank["hostname"] for rank in ranks}))

    def _settle_cores(self, ranks: Sequence[Mapping[str, Any]]) -> None:
        """Leave the cores that others compute on, if they see the same as this rank."""
        plan, log = self._plan, self._log
        share = settle_cores(plan.config.machine, ranks, self._rank)
        if share is None or set(share.cpus) == os.sched_getaffinity(0):
            return
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), share.cpus)
        usable = min(share.num_cores, provenance.cgroup_cores() or share.num_cores)
        self._plan = on_other_cores(plan, cores_per_device=usable / share.replicas, num_cpus=len(share.cpus))
        fields = self._plan.run_fields()
        log.note(cores=share.cpus, **{name: fields[name] for name in ("intra_op_threads", "inter_op_threads")})
        if self._rank == self._first_to_compute():
            names = ("cores_per_device", "intra_op_threads", "inter_op_threads", "config")
            log.shard.update_run(**{name: fields[name] for name in names})

    def _first_to_compute(self) -> int:
        """The rank that speaks for all that compute."""
        strategy = self._plan.strategy
        return next(rank for rank, task in enumerate(strategy.cluster.tasks) if strategy.replicas(task))

    def _own_gpus(self) -> list[str]:
        """UUIDs of GPUs that no other rank may use."""
        strategy = self._plan.strategy
        whole = strategy.resources.device_kind == "gpu" and not strategy.resources.gpu_memory_mib
        return [uuid for uuid in self._gpus.uuids if uuid] if whole and strategy.local_replicas else []

    def _start_samplers(self) -> dict[str, Sampler]:
        """Start a thread for each kind of sample: a driver that hangs must not end those of the process."""
        period_s = self._plan.config.measure.telemetry_period
        if not period_s:
            return {}
        sources: dict[str, ProcessSampler | Gpus] = {
            "process samples": ProcessSampler(node_counters=self._plan.strategy.cluster.local_rank == 0)
        }
        if self._sampled:
            sources["GPU samples"] = self._sampled
        write = self._log.shard.add_telemetry
        samplers = {
            name: Sampler(period_s=period_s, clock=self._clock, source=source, write=write)
            for name, source in sources.items()
        }
        for sampler in samplers.values():
            sampler.start()
        return samplers

    def _stop_samplers(self, samplers: Mapping[str, Sampler]) -> None:
        for name, sampler in samplers.items():
            if problem := sampler.stop(EXTRAS[name].bound_s):
                self._extras.give_up(name, problem)
            elif sampler.source.failures:
                self._log.shard.update_run(null_reasons=sampler.source.failures)

    def _describe_model(self, model: Any) -> None:
        self._log.shard.update_run(**run_columns.of_weights(self._plan, model))
        self._extend("frameworks", lambda: {"provenance": provenance.of_frameworks()})
        if self._plan.strategy.resources.device_kind == "cpu":
            self._extend("oneDNN", run_columns.of_onednn)

    def _describe_data(self, data: Data) -> None:
        strategy = self._plan.strategy
        readers = sum(strategy.replicas(task) > 0 for task in strategy.cluster.tasks)
        fields = run_columns.of_data(data, readers)
        self._log.shard.update_run(**fields)
        if fields["sharding"]:
            output.print_input(data.num_samples, fields["sharding"], readers)

    def _describe_peak(self, meeting: Rendezvous) -> None:
        """While the first rank that computes times a product the others wait: on the same host they would take cores
        or a GPU from it."""
        timed = self._plan.config.measure.measure_peak
        if timed:
            meeting.exchange(b"")
        if self._rank == self._first_to_compute():
            names = [gpu["name"] for gpu in self._gpus.descriptions]
            self._extend("peak FLOP/s", lambda: run_columns.of_peak(self._plan, names))
        if timed:
            meeting.exchange(b"")


def _save(trainer: Trainer, path: Path) -> None:
    """Writes the model, whole or not at all. Raises EnvironmentFault."""
    try:
        with replacing(path) as new:
            trainer.save(new)
    except OSError as error:
        # HDF5's own words name no file of the user's and tell of its insides.
        why = os.strerror(error.errno) if error.errno else gist(str(error))
        raise EnvironmentFault(
            f"--save-model {str(path)!r} cannot be written ({why}): make room, or choose another place"
        ) from error


def _no_proxy(hosts: set[str]) -> None:
    """Lets gRPC reach the peers themselves: it would ask the proxy that a site sets for the world outside."""
    known = os.environ.get(_NO_PROXY) or os.environ.get("no_proxy")
    os.environ[_NO_PROXY] = ",".join([*([known] if known else []), *sorted(hosts)])

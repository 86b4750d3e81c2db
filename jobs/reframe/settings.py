"""An example of a site's ReFrame configuration for the checks beside it: copy it, and change names and `access`."""

from pathlib import Path

HERE = Path(__file__).resolve().parent

site_configuration = {
    "systems": [
        {
            "name": "local",
            "descr": "this machine alone; bench.run starts the workers",
            "hostnames": ["localhost"],
            "partitions": [
                {
                    "name": "cpu",
                    "scheduler": "local",
                    "launcher": "local",
                    "environs": ["builtin"],
                    # ReFrame would run eight at once, and each would measure the others.
                    "max_jobs": 1,
                },
            ],
        },
        {
            "name": "cluster",
            "descr": "Slurm; srun starts one process a task",
            "hostnames": ["login.*"],
            "partitions": [
                {
                    "name": "cpu",
                    # `squeue` needs no accounting database but learns no exit code: the checks then rely on what
                    # bench.run printed. Where sacct works, `slurm` knows the code, and failed nodes and time limits.
                    "scheduler": "squeue",
                    "launcher": "srun",
                    "access": [],  # such as ["--partition=normal", "--account=abc"]
                    "environs": ["builtin"],
                },
                {
                    "name": "gpu",
                    "scheduler": "squeue",
                    "launcher": "srun",
                    "access": [],
                    "environs": ["builtin"],
                    # The checks ask for as many GPUs as stand here, and start a task for each.
                    "devices": [{"type": "gpu", "num_devices": 4}],
                    "resources": [{"name": "_rfm_gpu", "options": ["--gpus-per-node={num_gpus_per_node}"]}],
                },
            ],
        },
    ],
    # What a site would type with every command: --mode=trainscale stands for it.
    "modes": [
        {
            "name": "trainscale",
            "options": [f"--checkpath={HERE / 'trainscale.py'}", f"--setvar=references={HERE / 'references.yaml'}"],
        },
    ],
}

"""A job of somebody else: `python holder.py ADDRESS GPUS` holds them in an actor until its stdin ends."""

import sys

import ray


class Trainer:
    def ready(self) -> bool:
        return True


if __name__ == "__main__":
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR", namespace="somebody else")
    trainer = ray.remote(Trainer).options(num_gpus=int(sys.argv[2]), num_cpus=0).remote()
    ray.get(trainer.ready.remote(), timeout=60)
    print("held", flush=True)
    sys.stdin.read()

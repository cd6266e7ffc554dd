"""A turn worker: it runs the turns that are on the queue, and finds those that were lost.

python -m examples.scaled.worker      to be started again whenever it ends: it does so where it
                                      cannot tell the queue that it is alive
"""

import asyncio
import logging

from examples.scaled.wiring import LEASE, agent, engine, queue

TURNS = 100  # at a time; they wait for the model most of the time
GRACE = 2  # s for turns that are about to end; the others are given up, to be run elsewhere


async def work() -> None:
    async with queue.open_async(), agent:
        await queue.run_worker_async(  # until SIGTERM or Ctrl-C
            concurrency=TURNS,
            shutdown_graceful_timeout=GRACE,
            update_heartbeat_interval=LEASE / 3,
            fetch_job_polling_interval=0.5,  # s; a lock that becomes free is not announced
            delete_jobs="always",  # how turns ended is in their rows
        )
    await engine.dispose()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="turn worker %(process)d: %(message)s")
    logging.getLogger("scaled").setLevel(logging.INFO)
    asyncio.run(work())

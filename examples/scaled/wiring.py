"""What web processes and turn workers share: the rows, the job queue, the agent.

The environment says where everything is: DATABASE_URL, REDIS_URL, OPENCODE_BASE_URL, and what
`examples/chat/storage.py` reads of the bucket for files.
"""

import logging
import os
from contextlib import suppress

from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Status
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import async_sessionmaker

from examples.chat.app import CAREFUL
from examples.chat.models import TABLES, Conversation, Message
from examples.chat.storage import create_store
from examples.database import create_engine
from opencode_async import (
    ArtifactPolicy,
    LeaseHeld,
    LeaseLost,
    MessageNotFound,
    Opencode,
    Server,
    Timings,
    TurnQueued,
    TurnSettings,
)
from opencode_async.brokers.redis import RedisBroker
from opencode_async.observability.events import Event, TurnFinished, TurnStarted

LEASE = 10  # s after which the turns and the jobs of a worker that died are another's
log = logging.getLogger("scaled")

# ------------------------------------------------------------------------------------------------
# The rows, and the queue in the same PostgreSQL (Procrastinate speaks to it through psycopg)
# ------------------------------------------------------------------------------------------------

url = make_url(os.environ["DATABASE_URL"])
engine = create_engine(url.render_as_string(hide_password=False))
sessions = async_sessionmaker(engine, expire_on_commit=False)
ssl = url.query.get("ssl")  # asyncpg's word for psycopg's sslmode
plain = url.set(drivername="postgresql", query={"sslmode": ssl} if ssl else {})
conninfo = plain.render_as_string(hide_password=False)
queue = App(connector=PsycopgConnector(conninfo=conninfo))


async def dispatch(message: Message) -> None:
    """Put a turn on the queue, behind the commit of its row.

    The `lock` lets one job of a conversation run at a time. The `queueing_lock` lets one job of a
    turn wait: it is dispatched again for as long as nobody runs it.
    """
    job = answer.configure(
        lock=f"conversation {message.conversation_id}", queueing_lock=f"turn {message.id}"
    )
    with suppress(AlreadyEnqueued):
        await job.defer_async(message_id=str(message.id))


@queue.task(name="answer")
async def answer(message_id: str) -> None:
    """The job: one turn. Delivered twice, late or in parallel, its prompt is posted once.

    It needs no retries: a turn whose job fails is dispatched again, by whichever worker looks
    first for turns that nobody runs.
    """
    try:
        await agent.turns.run(message_id)
    except (LeaseHeld, LeaseLost, TurnQueued, MessageNotFound) as reason:
        log.info("%s", reason)  # another runs it, its time has not come, it was erased


@queue.periodic(cron=f"* * * * * */{LEASE // 2}")  # the sixth field is seconds
@queue.task(name="free_locks", queueing_lock="free_locks")
async def free_locks(timestamp: int) -> None:
    """End the jobs of workers that died: they would hold their conversations' locks for ever."""
    left = await queue.job_manager.get_stalled_jobs(
        task_name=answer.name, seconds_since_heartbeat=LEASE
    )
    for job in left:
        log.warning("job %s of %s was left by a worker that died", job.id, job.lock)
        with suppress(ConnectorException):  # it has just ended by itself
            await queue.job_manager.finish_job(job, Status.FAILED, delete_job=True)


# ------------------------------------------------------------------------------------------------
# The agent
# ------------------------------------------------------------------------------------------------


async def settings_for(conversation: Conversation) -> TurnSettings:
    return TurnSettings(permissions=CAREFUL)


def instrument(happened: Event) -> None:
    match happened:
        case TurnStarted():
            log.info("turn %s is run here (epoch %d)", happened.message_id, happened.epoch)
        case TurnFinished():
            log.info("turn %s has ended: %s", happened.message_id, happened.status)


agent = Opencode(
    Server.from_env(),
    sessions,
    TABLES,
    settings_for=settings_for,
    dispatch=dispatch,
    broker=RedisBroker(os.environ["REDIS_URL"]),  # who follows at one process hears the others
    artifacts=ArtifactPolicy(create_store()),
    instrumentation=instrument,
    timings=Timings(lease=LEASE),
)

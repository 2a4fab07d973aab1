"""Thumbnails of the images in a folder, made by all processors: `python thumbnails.py FOLDER`.

What computes for long belongs into processes: the event loop, which keeps the lease alive, stays free. The thumbnail is written beside
its image under another name and then renamed, so that one that is made twice is the same one.
"""

import asyncio
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import asyncpg
from PIL import Image, UnidentifiedImageError
from throwaway import prepared

from session_lock import Discard, PostgresDatabase, Runner, Settings, TaskTable, each

TABLES = """
CREATE TABLE IF NOT EXISTS image (
  path text PRIMARY KEY, state text NOT NULL DEFAULT 'new', width integer, height integer
);
"""
images = TaskTable(
    "image",
    key="path",
    pending="state = 'new'",
    finish="state = 'made'",
    discard="state = 'not an image'",
)


def shrink(path):
    """In a process of the pool."""
    target = Path(path).parent / "thumbnails" / f"{Path(path).stem}.jpg"
    target.parent.mkdir(exist_ok=True)
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((160, 160))
        part = target.with_suffix(f".{os.getpid()}.part")
        small.save(part, "JPEG")
    part.replace(target)
    return small.size


async def main(folder):
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores, mp_context=get_context("forkserver")) as pool:

        async def make(task):
            try:
                size = await asyncio.get_running_loop().run_in_executor(pool, shrink, task.key)
            except (UnidentifiedImageError, FileNotFoundError) as error:
                return Discard(str(error))
            async with task.transaction() as connection:
                await connection.execute(
                    "UPDATE image SET width = $2, height = $3 WHERE path = $1", task.key, *size
                )

        async with prepared(TABLES, images) as dsn:
            connection = await asyncpg.connect(dsn)
            found = [(str(path),) for path in sorted(folder.iterdir()) if path.is_file()]
            await connection.executemany("INSERT INTO image (path) VALUES ($1) ON CONFLICT DO NOTHING", found)
            settings = Settings(concurrency=cores, start_jitter=0)
            async with PostgresDatabase(dsn, images) as database, Runner(database, each(make), settings):
                while await connection.fetchval("SELECT count(*) FROM image WHERE state = 'new'"):
                    await asyncio.sleep(0.1)
            for state, number in await connection.fetch(
                "SELECT state, count(*) FROM image GROUP BY state ORDER BY state"
            ):
                print(f"{number} {state}")
            await connection.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

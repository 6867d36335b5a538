"""Where drafts go: each unit one Parquet file that is there whole or not at all, on S3 and in a folder.

Ray Data's own Parquet sink writes into a folder in place: a process killed meanwhile leaves half a file, and
everybody who reads the room stumbles over it.
"""

from __future__ import annotations

from typing import Any

from ray.data.block import BlockAccessor
from ray.data.datasource import BlockBasedFileDatasink

from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.patience import Patience


class DraftSink(BlockBasedFileDatasink):  # type: ignore[misc]  # Ray has no types
    """Writes ``drafts/<run_id>/<write>_<task>.parquet``; a task done twice writes the same file.

    Args:
        run: The run.
    """

    def __init__(self, run: RunContext) -> None:
        super().__init__(
            run.workspace.path("drafts", run.run_id), filesystem=run.workspace.fs, file_format="parquet"
        )
        self._run = run

    def write_block(self, block: BlockAccessor, block_index: int, ctx: Any) -> None:  # noqa: ARG002
        """Write one unit; called by Ray Data between the two phases of its checkpoint."""
        name = self.filename_provider.get_filename_for_task(ctx.kwargs["write_uuid"], ctx.task_idx)
        patiently = Patience(self._run.config.storage_patience_s)
        patiently(self._run.workspace.write_table, block.to_arrow(), "drafts", self._run.run_id, name)

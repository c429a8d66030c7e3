"""What libraries print around a write that failed is dropped, and nothing else."""

import logging

from hc_jax.train.quiet import Quiet


def test_asyncio_is_silent_of_a_storage_error_even_afterwards(caplog):
  Quiet().install().remove()
  full = "Failed to write 12 bytes to file 9: File too large [os_error_code='27']"
  for error in (ValueError(f"OUT_OF_RANGE: Error writing x: {full}"), ValueError("another")):
    found = (type(error), error, None)
    logging.getLogger("asyncio").error("exception was never retrieved", exc_info=found)
  assert [str(record.exc_info[1]) for record in caplog.records] == ["another"]

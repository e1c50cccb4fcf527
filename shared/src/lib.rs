//! Motorpool: a farm of Claude Code workers behind a Redis job queue.

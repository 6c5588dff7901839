"""One equality per method: `(left, right)` for one example, `stop_gradient` exactly where the paper has it."""

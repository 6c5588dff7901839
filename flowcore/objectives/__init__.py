"""From an equality to a loss: terms and objectives, laws of the times, schedules, guidance, and what a step costs."""

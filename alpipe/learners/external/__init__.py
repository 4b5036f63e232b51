"""Networks of other packages as learners. A module imports its package only when it builds."""

"""Why a run is bad: causes tried out one by one, each with what the result would be without it."""

"""The data plane of Sluicegate: one caught connection after another, read, decided, recorded, carried."""

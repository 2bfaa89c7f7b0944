"""The laboratory: an executor, the appliance and a target as network namespaces of one machine, with a real server."""

"""Launchers for tests of tables: they carry a job out in this process as soon as it is started."""

from experiments.comparison.local import Finished, carry_out


class Inline:
    """In the place of `Workers`. `carry_out` says how a job ends: '' or an error."""

    def __init__(self, count, *, threads):
        self.count, self.done = count, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def free(self):
        return self.count - len(self.done)

    @property
    def running(self):
        return [finished.job for finished in self.done]

    def start(self, job):
        self.done.append(Finished(job, self.carry_out(job), 1.0, 100.0))

    def finished(self):
        while self.done:
            yield self.done.pop()

    def carry_out(self, job):
        return carry_out(job.kind, job.overrides, job.log)

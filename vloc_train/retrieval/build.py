"""``vloc map build retrieval``: a descriptor database of drives, with an extractor that exists already."""

from __future__ import annotations

from vloc_ros.errors import ConfigError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.retrieval.descriptor import Descriptor, preprocess_for
from vloc_ros.localizers.retrieval.extractors import Extractor
from vloc_train.retrieval.clusters import fit_extractor_whitening, initialise_clusters, untrained_extractor
from vloc_train.retrieval.database import extractor_of, retrieval_contents
from vloc_train.retrieval.settings import BuildSettings
from vloc_train.training.recipe import Contents, Job, Trainer

__all__ = ["BUILDER"]


class RetrievalBuilder(Trainer[BuildSettings]):
    """The extractor is that of a map of any backend, else one with public or local weights."""

    backend = "retrieval"
    settings_class = BuildSettings
    takes = "any"
    builds = temporary = True

    def encoder(self, settings: BuildSettings) -> str | None:
        return None if settings.extractor.kind == "hub" else settings.extractor.backbone

    def prepare(self, job: Job[BuildSettings]) -> Preprocess:
        if job.extractor is not None:
            return extractor_of(job).preprocess
        if job.settings.extractor.kind != "hub" and job.settings.pretrained is False:
            raise ConfigError(
                "map build retrieval: expected an extractor, found none; give --extractor MAP, or public weights with "
                "--set pretrained=true or --set pretrained=FILE"
            )
        return preprocess_for(job.settings.extractor)

    def make(self, job: Job[BuildSettings]) -> Contents:
        settings = job.settings
        if job.extractor is not None:
            descriptor = extractor_of(job)
        else:
            descriptor = Descriptor(_public_extractor(job), job.preprocess, job.device)
        return retrieval_contents(descriptor, job.training, settings.retrieval, settings.database)


def _public_extractor(job: Job[BuildSettings]) -> Extractor:
    """A network with public weights; what public weights do not bring is fitted on the drives."""
    settings = job.settings
    extractor = untrained_extractor(settings.extractor, settings.pretrained)
    sample = (job.training, job.preprocess, settings.fit_images, settings.seed, job.device)
    initialise_clusters(extractor, *sample)
    if extractor.needs_whitening and settings.extractor.whiten is not None:
        fit_extractor_whitening(extractor, settings.extractor.whiten, *sample)
    return extractor


BUILDER = RetrievalBuilder()

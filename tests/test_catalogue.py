import pytest

from experiments.config.sources import CONF, names
from ssl_med.catalogue import get_class, list_names
from ssl_med.methods.core.base import Method
from ssl_med.spec import SslMedError


def test_one_method_is_one_file_and_one_yaml():
    methods = list_names("ssl_med.methods")
    assert {"models_genesis", "context_restoration", "pcrl", "moco", "simclr"} <= set(methods)
    assert methods == sorted(p.stem for p in (CONF / "method").glob("*.yaml"))
    for name in methods:
        found = get_class("ssl_med.methods", name, kind="method", base=Method)
        assert found.__name__.lower() == name.replace("_", "")


def test_one_data_set_is_one_file_and_one_yaml():
    assert list_names("datamodules") == sorted(p.stem for p in (CONF / "data").glob("*.yaml"))


def test_unknown_name_offers_the_nearest():
    with pytest.raises(SslMedError, match=r"method 'mocco' is unknown; did you mean 'moco'\?"):
        get_class("ssl_med.methods", "mocco", kind="method")
    with pytest.raises(SslMedError, match=r"there are: .*pcrl"):
        get_class("ssl_med.methods", "zzzzzz", kind="method")


def test_tasks_are_listed_from_their_yaml():
    assert {"lits", "luna", "brats", "chest14"} <= set(names("task"))

"""The rules that ``tests/conftest.py`` makes for all tests must be able to fail."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from hypothesis import settings

RULES = Path(__file__).with_name("conftest.py")

PASSED_OVER = {
    "skipped": "import pytest\n@pytest.mark.skip(reason='none')\ndef test_it(): pass\n",
    "skips_itself": "import pytest\ndef test_it(): pytest.skip('none')\n",
    "skipped_by_unittest": "import unittest as u\nclass T(u.TestCase):\n  def test_it(self): raise u.SkipTest\n",
    "expected_to_fail": "import pytest\n@pytest.mark.xfail\ndef test_it(): assert False\n",
    "expected_to_fail_in_vain": "import pytest\n@pytest.mark.xfail\ndef test_it(): pass\n",
    "skipped_as_a_file": "import pytest\npytest.skip('none', allow_module_level=True)\n",
    "needs_what_is_not_there": "import pytest\npytest.importorskip('no_such_module')\n",
}


def test_every_test_that_is_passed_over_fails_the_run(tmp_path):
    (tmp_path / "conftest.py").write_text(RULES.read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name, source in PASSED_OVER.items():
        (tmp_path / f"test_{name}.py").write_text(source)
    (tmp_path / "test_fine.py").write_text("def test_it(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert set(re.findall(r"test_(\w+)\.py\S* was passed over", done.stdout)) == set(PASSED_OVER)
    assert done.stdout.splitlines()[-1].startswith("4 failed, 1 passed, 3 errors"), done.stdout


def test_examples_are_the_same_everywhere_and_may_take_their_time():
    assert (settings.default.deadline, settings.default.derandomize, settings.default.database) == (None, True, None)

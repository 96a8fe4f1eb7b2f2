"""Write the vector files anew: `python tests/vectors/renew.py`.

By hand and never by a test: a file that changes is a change of the wire, which other languages' front-ends must follow.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from vectors import samples

if __name__ == "__main__":
    for name, content in samples.files().items():
        path = samples.FOLDER / name
        old = path.read_text() if path.exists() else ""
        new = samples.text(content)
        path.write_text(new)
        print(f"{name}: {'unchanged' if old == new else 'CHANGED'}")

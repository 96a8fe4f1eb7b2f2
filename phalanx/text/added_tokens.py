"""The tokens that a checkpoint declares and its tokenizer.json lacks.

They are added to the tokenizer, which gives each new token an id behind those it has.
"""

from tokenizers import AddedToken

from phalanx.checkpoint.declared_tokens import DeclaredToken, DeclaredTokens


def missing_tokens(declared: DeclaredTokens, known: dict[int, AddedToken]) -> list[AddedToken]:
    """What is to be added, in order, to a tokenizer whose added tokens are `known`."""
    exact = {repr(token) for token in known.values()}
    by_id = [_added(token) for _, token in sorted(declared.by_id.items())]
    missing = [token for token in by_id if repr(token) not in exact]
    texts = {token.content for token in (*known.values(), *missing)}
    for token in (*declared.by_name.values(), *declared.extra):
        if token.content not in texts:
            texts.add(token.content)
            missing.append(_added(token))
    named = {token.content for token in declared.by_name.values()}
    for added in missing:
        added.special = added.special or added.content in named
    return missing


def _added(token: DeclaredToken) -> AddedToken:
    return AddedToken(token.content, special=token.special, **token.flags)

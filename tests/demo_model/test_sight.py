"""In training, attention is kept from answering what the recurrent state is to answer."""

import pytest
import torch

from engine.demo_model.architecture import Architecture
from engine.demo_model.batches import question_view
from engine.demo_model.initialization import initialize
from engine.demo_model.network import Network

# Two rows of 128 tokens; the last turn of each asks for the tally or the mode.
QUESTIONS = torch.zeros(2, 128, dtype=torch.long)
QUESTIONS[:, 100:110] = 1


def test_no_view_is_made_where_everything_may_be_seen():
    assert question_view(QUESTIONS, ["everything", "everything"]) is None


def test_a_question_sees_its_own_turn_up_to_itself():
    view = question_view(QUESTIONS, ["own turn", "everything"])
    assert view.rows.tolist() == [0] * 10
    assert view.positions.tolist() == list(range(100, 110))
    for place, position in enumerate(range(100, 110)):
        allowed = view.allowed[0, 0, place].nonzero().flatten().tolist()
        assert allowed == list(range(100, position + 1))


def test_with_a_partner_it_also_sees_all_of_the_other_conversation():
    view = question_view(QUESTIONS, ["everything", "partner"])
    allowed = view.allowed[1, 0, 3].nonzero().flatten().tolist()
    assert allowed == [*range(100, 104), *range(128, 256)]


@pytest.mark.parametrize("sight", ["own turn", "partner"])
def test_attention_carries_nothing_from_before_the_question(sight):
    """With the Mamba layers silenced, earlier tokens of the row do not change the answer at all."""
    torch.manual_seed(3)
    network = Network(Architecture()).eval()
    initialize(network)
    for layer in network.model.layers:
        if hasattr(layer.mixer, "out_proj"):
            torch.nn.init.zeros_(layer.mixer.out_proj.weight)
    ids = torch.randint(1, 1024, (2, 128))
    changed = ids.clone()
    changed[0, :100] = torch.randint(1, 1024, (100,))
    view = question_view(QUESTIONS, [sight, "everything"])
    with torch.no_grad():
        before, after = (network.hidden(tokens, view)[0, 100:110] for tokens in (ids, changed))
        unlimited = [network.hidden(tokens)[0, 100:110] for tokens in (ids, changed)]
    assert torch.equal(before, after)
    assert not torch.allclose(*unlimited)

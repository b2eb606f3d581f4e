"""The whole model, served over HTTP, against two other implementations of it.

All in float32 on one checkpoint, so the log-probabilities differ by rounding only: measured at most
1e-5 between any two of the three, at 600 tokens. The bound leaves a factor of ten.
"""

import pytest
import torch

from .transformers_oracle import TransformersModel

TOLERANCE = 1e-4
NEW_TOKENS = 24
TOP = 5


def chosen(answer):
    """The generated ids, and the log-probability of each."""
    return answer["output_ids"], [
        entry[0] for entry in answer["meta_info"]["output_token_logprobs"]
    ]


def top(answer):
    """Ids and log-probabilities of the best tokens at each generated place: [places, TOP] each."""
    places = answer["meta_info"]["output_top_logprobs"]
    ids = torch.tensor([[entry[1] for entry in place] for place in places])
    return ids, torch.tensor([[entry[0] for entry in place] for place in places])


def assert_agrees(answer, reference):
    """`reference`: log-probabilities [places, vocabulary] where the answer's tokens were chosen."""
    ids, logprobs = chosen(answer)
    assert reference.argmax(-1).tolist() == ids
    at_chosen = reference.gather(1, torch.tensor(ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(logprobs), at_chosen, rtol=0, atol=TOLERANCE)
    top_ids, top_logprobs = top(answer)
    torch.testing.assert_close(top_logprobs, reference.gather(1, top_ids), rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="session")
def answers(server, prompts):
    """One prompt at a time: prefill in chunks, then decode."""
    server.flush_cache()
    return [server.generate([prompt], NEW_TOKENS, TOP)[0] for prompt in prompts]


def test_greedy_tokens_and_logprobs_equal_transformers(answers, prompts, transformers_model):
    for prompt, answer in zip(prompts, answers, strict=True):
        everything = transformers_model.logprobs(prompt + answer["output_ids"][:-1])
        assert_agrees(answer, everything[len(prompt) - 1 :])


def test_greedy_tokens_and_logprobs_equal_llama_cpp(answers, prompts, llama_model):
    """llama.cpp reads the answer token by token, as our decode kernels wrote it."""
    for prompt, answer in zip(prompts, answers, strict=True):
        reference = torch.from_numpy(
            llama_model.logprobs(prompt + answer["output_ids"][:-1], len(prompt))
        )
        assert_agrees(answer, reference)


def test_the_two_references_agree_with_each_other(prompts, transformers_model, llama_model):
    for prompt in prompts:
        theirs = torch.from_numpy(llama_model.logprobs(prompt, len(prompt))[0])
        torch.testing.assert_close(
            transformers_model.logprobs(prompt)[-1], theirs, rtol=0, atol=TOLERANCE
        )


def test_a_batch_answers_as_its_prompts_do_alone(server, prompts, answers):
    server.flush_cache()
    for together, alone in zip(server.generate(prompts, NEW_TOKENS, TOP), answers, strict=True):
        assert chosen(together)[0] == chosen(alone)[0]
        torch.testing.assert_close(
            torch.tensor(chosen(together)[1]),
            torch.tensor(chosen(alone)[1]),
            rtol=0,
            atol=TOLERANCE,
        )


def test_a_cached_prefix_changes_nothing_and_is_reported(server, prompts, transformers_model):
    server.flush_cache()
    longest = prompts[-1]
    server.generate([longest], 1)
    answer = server.generate([[*longest, 7, 8, 9]], NEW_TOKENS, TOP)[0]
    assert answer["meta_info"]["cached_tokens"] == len(longest) // 64 * 64
    everything = transformers_model.logprobs([*longest, 7, 8, 9, *answer["output_ids"][:-1]])
    assert_agrees(answer, everything[len(longest) + 2 :])


def test_mtp_on_gives_the_same_tokens_as_mtp_off(mtp_server, prompts, answers):
    mtp_server.flush_cache()
    for prompt, off in zip(prompts, answers, strict=True):
        on = mtp_server.generate([prompt], NEW_TOKENS, TOP)[0]
        assert chosen(on)[0] == chosen(off)[0]
        assert 1 <= on["meta_info"]["spec_accept_length"] <= 4


@pytest.mark.slow
def test_mtp_with_accepted_and_rejected_drafts_equals_plain_greedy(
    agreeing_mtp_server, agreeing, prompts
):
    """Every verify commits the KV, conv and SSM state of a different number of tokens: one wrong
    commit and all later log-probabilities are off."""
    oracle = TransformersModel(agreeing)
    lengths = []
    for prompt in prompts:
        answer = agreeing_mtp_server.generate([prompt], 3 * NEW_TOKENS, TOP)[0]
        everything = oracle.logprobs(prompt + answer["output_ids"][:-1])
        assert_agrees(answer, everything[len(prompt) - 1 :])
        lengths.append(answer["meta_info"]["spec_accept_length"])
    mean = sum(lengths) / len(lengths)
    print(f"mean acceptance length {mean:.2f} of at most 4")
    assert 1.5 < mean < 3.5

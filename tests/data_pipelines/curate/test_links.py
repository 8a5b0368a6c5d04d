"""Links that name one file, and the form that they have in common."""

import random

import pytest

from data_pipelines.curate import links


@pytest.mark.parametrize(
  ('one', 'other'),
  [
    ('HTTP://Example.COM:80/a', 'http://example.com/a'),
    ('http://example.com/a', 'https://example.com:443/a#part'),
    ('https://example.com', 'https://example.com/'),
    ('https://example.com./a', 'https://example.com/a'),
    ('https://bücher.de/ü?q=ü', 'https://xn--bcher-kva.de/%C3%BC?q=%c3%bc'),
    ('https://e.com/%7euser/%41', 'https://e.com/~user/A'),
    ('https://e.com/a b|c', ' https://e.com/a%20b%7Cc\n'),
    ('https://e.com/a/./b/../c', 'https://e.com/a/c'),
    ('https://[::1]:443/a', 'https://[::1]/a'),
    ('https://e.com/100%', 'https://e.com/100%25'),
    ('https://ex%61mple.com/a', 'https://example.com/a'),
    ('https://B%C3%9Ccher.de/a', 'https://xn--bcher-kva.de/a'),
  ],
)
def test_links_to_one_file_have_one_form(one, other):
  assert links.normal(one) == links.normal(other) is not None
  assert links.normal(links.normal(one)) == links.normal(one)


@pytest.mark.parametrize(
  ('one', 'other'),
  [
    ('https://e.com/a', 'https://e.com/A'),
    ('https://e.com/a', 'https://e.com/a/'),
    ('https://e.com/a%2Fb', 'https://e.com/a/b'),
    ('https://e.com/a?x=1', 'https://e.com/a?x=2'),
    ('https://e.com:8080/a', 'https://e.com/a'),
    ('https://e.com/a+b', 'https://e.com/a%20b'),
    ('https://e.com%2Fa/b', 'https://e.com/a/b'),
  ],
)
def test_links_to_two_files_have_two_forms(one, other):
  assert links.normal(one) != links.normal(other)


@pytest.mark.parametrize('text', ['', 'example.com/a', 'https://', 'https://e.com:x/', 'a b', '/a'])
def test_what_is_no_link_has_no_form(text):
  assert links.normal(text) is None


def test_plain_links_take_the_same_form_as_all_others():
  rng, letters = random.Random(0), 'aZ0.-_~:/?=&@%+;,!$\'()*"#[] é'
  drawn = [
    rng.choice(('http://', 'https://', 'HTTPS://')) + rng.choice(('e.com', 'x-1.e.com/a', ''))
    + ''.join(rng.choices(letters, k=rng.randrange(8)))
    for _ in range(20_000)
  ]  # fmt: skip
  forms = [links.normal(link) for link in drawn]
  assert forms == [links._rebuilt(link) for link in drawn]
  assert [links.normal(form) for form in forms if form] == [form for form in forms if form]

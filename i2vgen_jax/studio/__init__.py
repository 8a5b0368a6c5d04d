"""A web page that makes videos of a trained run, by the code of `sample`: `server` answers the page
(page.html, page.css, page.js) behind `access`, `asked` reads its form, `jobs` is the queue, `maker`
makes the videos with the weights that `runs` holds, and `preview` shows them half way.
"""

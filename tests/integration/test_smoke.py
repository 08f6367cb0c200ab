from tests.harness import Docora


def test_retry(docora: Docora) -> None:
    link = docora.add_link()
    result = docora.run("retry", link.app_id, link.repository_id, "--json")
    assert result.code == 0, result
    assert result.data["outcome"] == "queued"
    assert docora.was_reset(link)
    assert docora.waiting() == [link.job_id]
    print(docora.run("retry", link.app_id, link.repository_id))


def test_bulk(docora: Docora) -> None:
    docora.add_links(1200, apps=3)
    result = docora.run("retry-all-failed", "--json")
    assert result.code == 0, result
    print(result)
    assert not docora.lost_links()
    assert not docora.doubled_jobs()

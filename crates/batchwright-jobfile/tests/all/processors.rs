//! The processors of the crate of items, in job files, and what the type `xml` makes of values.

use std::fs;
use std::sync::Arc;

use batchwright::testing::TestBench;
use batchwright::{BatchStatus, execution::JobExecution};
use batchwright_jobfile::JobFolder;
use tempfile::TempDir;

/// Runs a job that copies `lines`, JSON objects, by `processor` into `writer`; bad records are skipped.
fn run(lines: &str, processor: &str, writer: &str) -> Result<(TempDir, JobExecution), String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.jsonl"), lines).unwrap();
    let text = format!(
        "name = \"job\"\n[[steps]]\nname = \"copy\"\nreader = {{ type = \"jsonl\", path = \"in.jsonl\" }}\n\
         writer = {writer}\nskip = {{ limit = 100, dead_letter = \"rejected\" }}\n{processor}\n"
    );
    fs::write(folder.path().join("job.toml"), text).unwrap();
    let job = JobFolder::new(folder.path()).load(&folder.path().join("job.toml"));
    let job = Arc::into_inner(job.map_err(|error| error.to_string())?).unwrap();
    let ended = TestBench::of(job).run();
    Ok((folder, ended))
}

/// As [`run`], with a processor of `keys` and JSON lines; returns the output and the dead letters.
fn processed(lines: &str, keys: &str) -> (String, String) {
    let writer = "{ type = \"jsonl\", path = \"out\" }";
    let (folder, ended) = run(lines, &format!("[[steps.processors]]\n{keys}"), writer).unwrap();
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    (read("out"), read("rejected"))
}

fn refused(keys: &str) -> String {
    let writer = "{ type = \"none\" }";
    match run("{}\n", &format!("[[steps.processors]]\n{keys}"), writer) {
        Err(error) => error,
        Ok((_, ended)) => ended.failure.expect("the step fails").message,
    }
}

#[test]
fn masked_values_are_hidden_as_the_job_says_and_nulls_stay() {
    let lines = "{\"name\":\"Ada\",\"iban\":\"DE4412345678\",\"n\":7}\n{\"name\":null,\"iban\":\"ä\",\"n\":8}\n{\"n\":9}\n";
    let mask = |keys: &str| processed(lines, &format!("type = \"mask\"\n{keys}"));
    let (out, rejected) = mask("fields = [\"name\", \"iban\"]");
    assert_eq!(
        out,
        "{\"name\":\"***\",\"iban\":\"***\",\"n\":7}\n{\"name\":null,\"iban\":\"***\",\"n\":8}\n"
    );
    assert!(rejected.contains("cannot mask `name`: the item has no such field"), "{rejected}");
    let (out, _) = mask("fields = [\"iban\"]\nkeep_last = 4");
    assert_eq!(
        out,
        "{\"name\":\"Ada\",\"iban\":\"********5678\",\"n\":7}\n{\"name\":null,\"iban\":\"*\",\"n\":8}\n"
    );
    // RFC 2104, computed by `printf Ada | openssl dgst -sha256 -hmac key`.
    let (out, _) = mask("fields = [\"name\"]\nhash_key = \"key\"");
    let digest = "c066342b76c7754f806a2b2f779b085c499fe3e4b9d920f9620c8f10911f6dbe";
    assert!(out.starts_with(&format!("{{\"name\":\"{digest}\"")), "{out}");
}

#[test]
fn a_mask_has_one_method_and_some_fields() {
    for (keys, wanted) in [
        ("fields = []", "`fields` has at least one name"),
        ("fields = [\"a\"]\ntext = \"x\"\nkeep_last = 1", "exclude each other"),
        ("fields = [\"a\"]\nhash_key = \"\"", "`hash_key` is empty"),
        ("fields = [\"a\"]\nkeep_lst = 1", "there is no key `keep_lst`"),
    ] {
        let error = refused(&format!("type = \"mask\"\n{keys}"));
        assert!(error.contains(wanted), "{keys}: {error}");
    }
}

#[cfg(feature = "validate")]
#[test]
fn a_record_that_does_not_fit_its_schema_is_bad_and_says_why() {
    let lines = "{\"id\":1,\"mail\":\"a@b\"}\n{\"id\":0,\"mail\":7}\n{\"mail\":\"c\"}\n";
    let schema = "{ required = [\"id\"], properties = { id = { type = \"integer\", minimum = 1 }, mail = { type = \"string\" } } }";
    let (out, rejected) = processed(lines, &format!("type = \"validate\"\nschema = {schema}"));
    assert_eq!(out, "{\"id\":1,\"mail\":\"a@b\"}\n");
    let rejected: Vec<&str> = rejected.lines().collect();
    assert_eq!(rejected.len(), 2);
    assert!(
        rejected[0].contains("data.invalid")
            && rejected[0].contains("`id`: the value is less than"),
        "{}",
        rejected[0]
    );
    assert!(rejected[0].contains("`mail`: the value is not of type"), "{}", rejected[0]);
    assert!(rejected[1].contains("\\\"id\\\" is a required property"), "{}", rejected[1]);
    for (keys, wanted) in [
        ("", "has either `schema` or `schema_file`"),
        ("schema = { type = \"integr\" }", "it is no JSON Schema"),
        ("schema = { \"$ref\" = \"http://127.0.0.1:1/s.json\" }", "it is no JSON Schema"),
        ("schema_file = \"none.json\"", "cannot use the schema"),
    ] {
        let error = refused(&format!("type = \"validate\"\n{keys}"));
        assert!(error.contains(wanted), "{keys}: {error}");
    }
}

#[test]
fn xml_has_what_it_can_express_and_refuses_the_rest() {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(30_000), "]".repeat(30_000));
    let lines = [
        "{\"id\":1,\"tags\":[\"a\",\"b\"],\"at\":{\"x\":1.50,\"y\":null},\"t\":\"<&>\\r\\n\\\"\"}",
        "{\"id\":2,\"tags\":[[1],[2]]}",
        "{\"id\":3,\"tags\":[1,null]}",
        "{\"id\":4,\"m²\":1}",
        "{\"id\":5,\"p:q\":1}",
        "{\"id\":6,\"t\":\"\\u0001\"}",
        "{\"id\":{\"a\":1}}",
        "{\"id\":8,\"a\":{\"b\":1,\"b\":2}}",
        &deep,
    ]
    .join("\n");
    let writer = "{ type = \"xml\", path = \"out\", root_attributes = { xmlns = \"urn:x\" }, attributes = [\"id\"] }";
    let (folder, ended) = run(&lines, "", writer).unwrap();
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    let out = fs::read_to_string(folder.path().join("out")).unwrap();
    assert_eq!(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<items xmlns=\"urn:x\">\n\
         <item id=\"1\"><tags>a</tags><tags>b</tags><at><x>1.50</x></at><t>&lt;&amp;&gt;&#13;&#10;&quot;</t></item>\n</items>\n"
    );
    let rejected = fs::read_to_string(folder.path().join("rejected")).unwrap();
    for (line, wanted) in rejected.lines().zip([
        "field `tags`: a list of lists has no place",
        "field `tags`: a null within a list",
        "`m²` as XML",
        "does not declare its prefix",
        "XML has no character U+0001",
        "attribute `id`: a list or a map",
        "field `a`: the name `b` occurs twice",
        "cannot write",
    ]) {
        assert!(line.contains(wanted), "{wanted}: {}", &line[..line.len().min(300)]);
    }
    assert_eq!(rejected.lines().count(), 8);
}

#[test]
fn wrong_names_of_xml_are_refused_when_the_job_is_read() {
    for (writer, wanted) in [
        ("{ type = \"xml\", path = \"out\", root = \"1\" }", "cannot have this name"),
        ("{ type = \"xml\", path = \"out\", attributes = [\"a\", \"a\"] }", "`a` is there twice"),
        ("{ type = \"xml\", path = \"out\", attributes = [\"a b\"] }", "cannot be called `a b`"),
    ] {
        let error = run("{}\n", "", writer).unwrap_err();
        assert!(error.contains(wanted), "{writer}: {error}");
    }
}

#[cfg(feature = "script")]
mod script {
    use super::{processed, refused};

    fn ran(lines: &str, code: &str) -> (String, String) {
        processed(lines, &format!("type = \"script\"\ncode = '''\n{code}\n'''"))
    }

    /// Returns the dead letters of `line`, beside which another item is good.
    fn bad(line: &str, code: &str) -> String {
        let code = format!("if item.len() == 0 {{ return item; }}\n{code}");
        let (out, rejected) = ran(&format!("{line}\n{{}}\n"), &code);
        assert_eq!(out, "{}\n", "{rejected}");
        rejected
    }

    #[test]
    fn a_program_changes_leaves_out_and_refuses_items() {
        let lines = "{\"id\":1,\"price\":1.10,\"tags\":[\"a\",\"b\"]}\n{\"id\":2,\"price\":2,\"tags\":[]}\n\
                     {\"id\":3,\"price\":null,\"tags\":[\"a\"]}\n";
        let code = "
            if item.tags.len() == 0 { return (); }
            if item.price == () { throw `order ${item.id} has no price`; }
            let sum = 0;
            for n in 1..=3 { sum += item.price * n; }
            item.sum = sum;
            item.first = item.tags[0].to_upper();
            item.remove(\"tags\");
            item";
        let (out, rejected) = ran(lines, code);
        assert_eq!(out, "{\"id\":1,\"price\":1.10,\"first\":\"A\",\"sum\":6.60}\n");
        assert!(rejected.contains("data.script") && rejected.contains("order 3 has no price"));
    }

    #[test]
    fn values_stay_what_they_are() {
        let line = "{\"z\":9223372036854775807,\"y\":12345678901234567890.123456,\"x\":1e+300,\"w\":true,\"v\":null,\"u\":\"ä\\\"\\n\",\"t\":{\"b\":[1,{\"c\":0.50}]},\"s\":[]}\n";
        let (out, rejected) = ran(&format!("{line}{{}}\n"), "item");
        assert_eq!(out, format!("{line}{{}}\n"), "{rejected}");
        // What a program cannot hold is a bad record, and no other number.
        let rejected = bad("{\"n\":1.00000000000000000000000000000000001}", "item");
        assert!(rejected.contains("it has too many digits"), "{rejected}");
    }

    #[test]
    fn exact_numbers_and_literals_with_a_point_are_calculated_exactly() {
        let code = "item.tax = item.net * 0.19; item.half = item.net / 2; item.fits = [item.net == 0.1, 0.2 > item.net, 0.3 + item.net != 0.4];
                    item";
        let (out, rejected) = ran("{\"net\":0.10}\n", code);
        let expected = "{\"net\":0.10,\"fits\":[true,true,false],\"half\":0.05,\"tax\":0.0190}\n";
        assert_eq!(out, expected, "{rejected}");
        let rejected = bad("{\"net\":0.10}", "item.net / 0.0; item");
        assert!(rejected.contains("has no value"), "{rejected}");
        let rejected = bad("{\"net\":9223372036854775807}", "item.net += 1; item");
        assert!(rejected.contains("overflow"), "{rejected}");
    }

    #[test]
    fn fields_that_a_program_does_not_change_keep_types_digits_and_order() {
        let line = "{\"b\":{\"z\":1.50,\"a\":[1E5,null]},\"l\":[0.10],\"n\":1E5,\"x\":0}\n";
        let (out, rejected) = ran(line, "item.x += 1; item");
        assert_eq!(out, line.replace("\"x\":0", "\"x\":1"), "{rejected}");
        let (out, _) = ran(line, "item.b.z += 1; item.l.push(\"ä\"); item.n += 1; item");
        assert_eq!(
            out,
            "{\"b\":{\"a\":[100000,null],\"z\":2.50},\"l\":[0.10,\"ä\"],\"n\":100001,\"x\":0}\n"
        );
        let deep =
            |levels: usize| format!("{{\"n\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(bad(&deep(100_000), "item").contains("more than 100 lists"));
        let (out, _) = ran(&format!("{}\n", deep(100)), "item");
        assert_eq!(out, format!("{}\n", deep(100)));
        let rejected = bad("{\"n\":12345678901234567890123456789.5e0}", "item");
        assert!(rejected.contains("too many digits"), "{rejected}");
    }

    #[test]
    fn a_program_ends_and_reaches_nothing_but_its_item() {
        for (code, what) in [
            ("while true { item.n += 0; }", "Too many operations"),
            ("let s = \"x\"; loop { s += s; }", "Length of string too large"),
            ("fn f(n) { f(n + 1) } f(1)", "Stack overflow"),
            ("timestamp()", "Function not found"),
            ("sleep(1)", "no program sleeps"),
            ("sleep(0.5)", "no program sleeps"),
            ("open_file(\"x\")", "Function not found"),
            ("print(item.n); debug(item.n); item.missing.x", "the program fails"),
        ] {
            let rejected = bad("{\"n\":1}", code);
            assert!(rejected.contains(what), "{code}: {rejected}");
        }
        for code in ["eval(\"1\")", "import \"x\" as x;"] {
            let what = refused(&format!("type = \"script\"\ncode = '''{code}'''"));
            assert!(what.contains("cannot be compiled"), "{code}: {what}");
        }
    }

    #[test]
    fn a_program_that_is_none_or_returns_no_item_is_refused() {
        let script = |code: &str| refused(&format!("type = \"script\"\ncode = '''{code}'''"));
        let wrong = script("item.x = ;");
        assert!(
            wrong.contains("the program cannot be compiled") && wrong.contains("line 1"),
            "{wrong}"
        );
        let wrong = script("item.len()");
        assert!(wrong.contains("the program returns i64 and no item"), "{wrong}");
        let wrong = script("item.f = Fn(\"g\"); item");
        assert!(wrong.contains("which no field holds"), "{wrong}");
        assert!(refused("type = \"script\"").contains("either `code` or `file`"));
        let wrong = refused("type = \"script\"\nfile = \"missing.rhai\"");
        assert!(
            wrong.contains("cannot use the program `") && wrong.contains("missing.rhai"),
            "{wrong}"
        );
    }
}

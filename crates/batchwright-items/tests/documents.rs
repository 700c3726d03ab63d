//! JSON arrays and XML documents: what is read and written, and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};

use batchwright::execution::JobExecution;
use batchwright::item::{ItemReader, ItemWriter, ListReader, ListWriter};
use batchwright::policy::{Classifier, SkipPolicy};
use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, ChunkStepBuilder};
use batchwright_items::format::json::{JsonReader, JsonWriter};
use batchwright_items::transport::MemorySource;
use serde_json::{Value, json};

/// What a step read, its dead letters, and how it ended.
struct Read<T> {
    items: Vec<T>,
    dead_letters: Vec<Value>,
    ended: JobExecution,
}

/// Reads `reader` to its end; elements that fail are skipped.
fn read<R>(reader: R) -> Read<R::Item>
where
    R: ItemReader + Clone + 'static,
    R::Item: Clone + 'static,
{
    let folder = tempfile::tempdir().unwrap();
    let dead = folder.path().join("dead.jsonl");
    let items = Arc::new(Mutex::new(Vec::new()));
    let step = ChunkStepBuilder::new("read")
        .reader(reader)
        .writer(ListWriter::new(Arc::clone(&items)))
        .skip(SkipPolicy::limit(100).on(Classifier::none().including("data")))
        .dead_letters(&dead)
        .build();
    let ended = TestBench::of_step(step).run();
    let items = items.lock().unwrap().clone();
    let lines = fs::read_to_string(&dead).unwrap_or_default();
    let dead_letters = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Read { items, dead_letters, ended }
}

impl<T> Read<T> {
    fn failure(&self) -> &str {
        assert_eq!(self.ended.status, BatchStatus::Failed);
        &self.ended.failure.as_ref().unwrap().message
    }
}

fn source(text: &str) -> Arc<MemorySource> {
    Arc::new(MemorySource::new("the document", text.as_bytes()))
}

fn json_of(text: &str, array: &str) -> JsonReader<Value> {
    JsonReader::within("", array).from_source(source(text))
}

#[test]
fn the_elements_of_an_array_are_read_wherever_it_is_in_the_document() {
    for (text, array) in [
        ("[1, {\"a\": \"]\"} ,[2],\"x\"]", ""),
        ("\u{feff} [1,{\"a\":\"]\"},[2],\n\"x\"]\n", "$"),
        (
            "{\"b\":[0],\"a\\u0062\":{\"c\":[1,{\"a\":\"]\"},[2],\"x\"],\"d\":{}},\"e\":\"}\"}",
            "$.ab.c",
        ),
    ] {
        let read = read(json_of(text, array));
        assert_eq!(read.ended.status, BatchStatus::Completed, "{text}: {:?}", read.ended.failure);
        assert_eq!(read.items, [json!(1), json!({"a": "]"}), json!([2]), json!("x")], "{text}");
    }
    assert_eq!(read(json_of("{\"$v\":[7],\"v\":[8]}", "$.$v")).items, [json!(7)]);
    assert_eq!(read(json_of("[ ]", "")).items, [] as [Value; 0]);
    assert_eq!(read(json_of("{\"a\":[]}", "a")).ended.status, BatchStatus::Completed);
}

#[test]
fn an_element_that_is_no_json_or_too_long_is_one_skipped_record() {
    let long = "x".repeat(200_000);
    let text = format!("[1, {{\"a\" 1}}, {{\"b\":\"{long}\"}}, \"\\q\", 5]");
    let found = read(json_of(&text, "").record_bytes_max(1_000));
    assert_eq!(found.items, [json!(1), json!(5)]);
    let errors: Vec<_> =
        found.dead_letters.iter().map(|letter| letter["message"].as_str().unwrap()).collect();
    assert!(errors[0].contains("element 2, byte 4"), "{errors:?}");
    assert!(errors[1].contains("longer than 1000 bytes (element 3, byte 13)"), "{errors:?}");
    assert!(errors[2].contains("element 4"), "{errors:?}");
    assert_eq!(found.dead_letters[0]["content"], "{\"a\" 1}");
    assert_eq!(found.dead_letters[1]["content"].as_str().unwrap().len(), 64 * 1024);
}

#[test]
fn a_document_that_is_cut_or_not_well_formed_fails_and_never_looks_complete() {
    let whole = "{\"a\": [{\"b\": [1, \"x\"]}, 2], \"c\": 3}";
    for length in 0..whole.len() {
        let cut = read(json_of(&whole[..length], "a"));
        assert_eq!(cut.ended.status, BatchStatus::Failed, "{}", &whole[..length]);
    }
    for (text, array, wanted) in [
        (
            "[1 2]",
            "",
            "it has `2` where there must be `,` or `]` after an element (after element 1, byte 3)",
        ),
        ("[1,]", "", "it has `]` where there must be a value"),
        ("[1]]", "", "it goes on with `]` after its end"),
        ("[{\"a\":[1}]", "", "it has `}` where there must be `]`"),
        ("{\"a\":[1] [2,3]}", "a", "it has `[` where there must be `,` or `}` after a value"),
        ("{\"a\":[1] x}", "a", "it has `x` where there must be `,` or `}` after a value"),
        ("{\"a\":[1],,}", "a", "it has `,` where there must be the name of a field"),
        ("{\"b\":tru,\"a\":[1]}", "a", "a value is no JSON"),
        ("{\"a\":[1],\"b\":01}", "a", "a value is no JSON"),
        ("{\"a\":[1],\"a\":[2]}", "a", "it has `a` twice"),
        ("{\"a\":{\"b\":[1]},\"c\":{\"b\":1},\"a\":{}}", "a.b", "it has `a` twice"),
        ("[1]", "a..b", "`a..b` is no list of names"),
        ("\u{feff}\u{feff}[1]", "", "it is not a JSON array"),
        ("{\"a\":[1]}", "", "it is not a JSON array; name the array within it (`items_at`)"),
        ("{\"a\":1}", "a", "`a` is not an array"),
        ("{\"a\":{\"b\":[]}}", "a.c", "it has no `a.c`"),
        (&"[".repeat(2_000), "", "it is deeper than 1000 levels"),
    ] {
        let read = read(json_of(text, array));
        assert!(read.failure().contains(wanted), "{text}: {}", read.failure());
    }
}

#[test]
fn a_json_array_is_whole_without_items_and_the_same_after_a_crash_at_each_commit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.json");
    is_whole_after_crashes(
        &path,
        || JsonWriter::new(&path),
        |text| {
            let rows: Vec<BTreeMap<String, u64>> = serde_json::from_str(text).unwrap();
            rows.len()
        },
    );
    assert!(fs::read_to_string(&path).unwrap().starts_with("[\n{\"n\":0},\n{\"n\":1},\n"));
}

/// Writes up to five items with a crash at each commit, and compares with an uninterrupted run; `count` counts the items.
fn is_whole_after_crashes<W>(
    path: &std::path::Path,
    writer: impl Fn() -> W,
    count: impl Fn(&str) -> usize,
) where
    W: ItemWriter<BTreeMap<String, u64>> + Clone + 'static,
{
    for items in [0, 1, 5] {
        let rows: Vec<_> = (0..items).map(|n| BTreeMap::from([("n".to_owned(), n)])).collect();
        let written = |crash: Option<(CommitPoint, u64)>, threads| {
            let step = ChunkStepBuilder::new("write")
                .reader(ListReader::new(rows.clone()))
                .writer(writer())
                .chunk_size(2)
                .parallelism(threads);
            let mut bench = TestBench::of_step(step.build());
            if let Some((point, commit)) = crash {
                bench.crash_at(point, commit);
            }
            let mut ended = bench.run();
            if ended.status != BatchStatus::Completed {
                ended = bench.restart();
            }
            assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
            let text = fs::read_to_string(path).unwrap();
            fs::remove_file(path).unwrap();
            text
        };
        let whole = written(None, 1);
        assert_eq!(count(&whole), usize::try_from(items).unwrap(), "{whole}");
        for threads in [1, 2] {
            for commit in 1..=4 {
                for point in [CommitPoint::Before, CommitPoint::After] {
                    let text = written(Some((point, commit)), threads);
                    assert_eq!(text, whole, "{items} items, {point:?} {commit}, {threads} threads");
                }
            }
        }
        fs::write(path, whole).unwrap();
    }
}

#[cfg(feature = "xml")]
mod xml {
    use super::*;
    use batchwright_items::format::xml::{XmlReader, XmlWriter};
    use serde::Deserialize;

    #[derive(Debug, Clone, PartialEq, Deserialize)]
    struct Trade {
        #[serde(rename = "@id")]
        id: u32,
        symbol: String,
    }

    fn of(text: &[u8]) -> XmlReader<Trade> {
        let source = MemorySource::new("the document", text);
        XmlReader::new("", "trade").from_source(Arc::new(source))
    }

    #[test]
    fn elements_are_read_at_any_depth_with_prefixes_entities_and_encodings() {
        let text = "<?xml version='1.0' encoding='iso-8859-1'?>\n<!DOCTYPE all SYSTEM 'none.dtd'>\n<all xmlns:p='urn:x'><!-- <trade/> -->\
            <group><p:trade id='1'><symbol>A&amp;\u{e4}</symbol></p:trade></group>\n<trade id=\"2\"><symbol><![CDATA[<b>]]></symbol></trade></all>\n";
        let latin: Vec<u8> =
            text.chars().map(|one| u8::try_from(u32::from(one)).unwrap()).collect();
        let found = read(of(&latin));
        assert_eq!(found.ended.status, BatchStatus::Completed, "{:?}", found.ended.failure);
        let trade = |id, symbol: &str| Trade { id, symbol: symbol.to_owned() };
        assert_eq!(found.items, [trade(1, "A&\u{e4}"), trade(2, "<b>")]);
    }

    #[test]
    fn an_element_that_does_not_fit_or_is_too_long_is_one_skipped_record() {
        let long = "<symbol>x</symbol>".repeat(20_000);
        let text = format!(
            "<all><trade id='1'><symbol>a</symbol></trade><trade id='x'/><trade id='3'>{long}</trade>\
             <trade id='4'><symbol>&unknown;</symbol></trade><trade id='5'><symbol>e</symbol></trade></all>"
        );
        let found = read(of(text.as_bytes()).record_bytes_max(1_000));
        assert_eq!(found.ended.status, BatchStatus::Completed, "{:?}", found.ended.failure);
        assert_eq!(found.items.iter().map(|trade| trade.id).collect::<Vec<_>>(), [1, 5]);
        let errors: Vec<_> =
            found.dead_letters.iter().map(|letter| letter["message"].as_str().unwrap()).collect();
        assert!(errors[0].contains("element 2, byte 45"), "{errors:?}");
        assert!(errors[1].contains("longer than 1000 bytes (element 3"), "{errors:?}");
        assert!(errors[2].contains("unknown"), "{errors:?}");
    }

    #[test]
    fn what_is_cut_not_well_formed_or_hostile_fails() {
        let whole = "<a><trade id='1'><symbol>x</symbol></trade><b/></a>";
        for length in 0..whole.len() {
            let cut = read(of(&whole.as_bytes()[..length]));
            assert_eq!(cut.ended.status, BatchStatus::Failed, "{}", &whole[..length]);
        }
        let bomb = "<!DOCTYPE a [<!ENTITY b \"bbbb\"><!ENTITY c \"&b;&b;&b;\">]><a>&c;</a>";
        let file = "<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]><a><trade id='1'><symbol>&b;</symbol></trade></a>";
        for (text, wanted) in [
            (
                &bomb.as_bytes().to_vec(),
                "it declares entities or types of its own, which are refused",
            ),
            (
                &file.as_bytes().to_vec(),
                "it declares entities or types of its own, which are refused",
            ),
            (&b"<a></b>".to_vec(), "`</b>` ends `<a>`"),
            (&b"<a><trade><c></trade></c></a>".to_vec(), "`</c>` ends `<trade>`"),
            (&b"<a></a b>".to_vec(), "a `<` begins no tag"),
            (&b"<a><!DOCTYPE b></a>".to_vec(), "a document type is within an element"),
            (&b"<a><!ENTITY x 'y'></a>".to_vec(), "a `<` begins no tag"),
            (&b"<a><?xml version='1.0'?></a>".to_vec(), "a declaration is not at its beginning"),
            (
                &b"\xef\xbb\xbf<?xml version='1.0' encoding='windows-1252'?><a/>".to_vec(),
                "the mark of UTF-8",
            ),
            (&b"<?xml version='1.0' encoding='iso-2022-jp'?><a/>".to_vec(), "is not supported"),
            (&b"<a>".repeat(2_000), "it is deeper than 1000 levels"),
            (&[b"<", &b"a".repeat(2_000)[..], b"/>"].concat(), "a name is longer than 1024 bytes"),
            (&b"<a/><b/>".to_vec(), "`<b>` follows its first element"),
            (&b"<a/><!--".to_vec(), "it ends within an element, a tag or a comment"),
            (
                &b"<a/>text".to_vec(),
                "it has text outside of its first element (after element 0, byte 4)",
            ),
            (&b"<a>< b></a>".to_vec(), "a `<` begins no tag"),
            (&b"\xff\xfe<\0".to_vec(), "it is UTF-16"),
            (
                &b"<?xml version='1.0' encoding='klingon'?><a/>".to_vec(),
                "there is no encoding `klingon`",
            ),
            (
                &[b"<a b='".to_vec(), vec![b'x'; 3_000_000]].concat(),
                "a tag is longer than 1048576 bytes",
            ),
        ] {
            let read = read(of(text));
            let shown = String::from_utf8_lossy(&text[..text.len().min(60)]);
            assert!(read.failure().contains(wanted), "{shown}: {}", read.failure());
        }
    }

    #[test]
    fn names_are_compared_in_the_encoding_of_the_document_and_must_be_local() {
        let latin = b"<?xml version='1.0' encoding='windows-1252'?><a>\xff\xfe<gr\xf6\xdfe><n>1</n></gr\xf6\xdfe></a>";
        let rows = |name: &str| {
            let source = Arc::new(MemorySource::new("the document", *latin));
            read(XmlReader::<BTreeMap<String, u8>>::new("", name).from_source(source))
        };
        assert_eq!(rows("gr\u{f6}\u{df}e").items.len(), 1);
        for name in ["p:trade", "<trade>", ""] {
            let found = rows(name);
            assert!(found.failure().contains("is no name of an element"), "{}", found.failure());
        }
    }

    #[test]
    fn nil_is_null_whatever_its_prefix_and_wherever_that_is_declared() {
        #[derive(Debug, Clone, PartialEq, Deserialize)]
        struct Priced {
            price: Option<u32>,
        }
        let text = "<all xmlns:i='http://www.w3.org/2001/XMLSchema-instance'><t><price i:nil='true'/></t><t><price>7</price></t></all>";
        let found = read(XmlReader::<Priced>::new("", "t").from_source(source(text)));
        assert_eq!(found.items, [Priced { price: None }, Priced { price: Some(7) }]);
        let uri = "http://www.w3.org/2001/XMLSchema-instance";
        let text = format!(
            "<all xmlns:i='{uri}'><t xmlns:i = '{uri}'><price i:nil='1'/></t><g xmlns:j='{uri}'><t><price j:nil='true'/></t></g></all>"
        );
        let found = read(XmlReader::<Priced>::new("", "t").from_source(source(&text)));
        assert_eq!(
            found.items,
            [Priced { price: None }, Priced { price: None }],
            "{:?}",
            found.dead_letters
        );
    }

    #[test]
    fn a_long_comment_and_a_long_section_need_no_memory() {
        let long = "x".repeat(3_000_000);
        let text = format!(
            "<a><!--{long}--><trade id='1'><symbol><![CDATA[{long}]]></symbol></trade><?p {long}?><trade id='2'><symbol>b</symbol></trade></a>"
        );
        let found = read(of(text.as_bytes()));
        assert_eq!(found.ended.status, BatchStatus::Completed, "{:?}", found.ended.failure);
        assert_eq!(found.items.iter().map(|trade| trade.id).collect::<Vec<_>>(), [2]);
        assert_eq!(found.dead_letters.len(), 1);
    }

    #[test]
    fn an_xml_document_is_whole_without_items_and_the_same_after_a_crash_at_each_commit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.xml");
        is_whole_after_crashes(
            &path,
            || XmlWriter::new(&path, "all", "one"),
            |text| {
                assert!(
                    text.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<all>\n"),
                    "{text}"
                );
                assert!(text.ends_with("</all>\n"), "{text}");
                text.matches("<one>").count()
            },
        );
        let rows = read(XmlReader::<BTreeMap<String, u64>>::new(&path, "one"));
        assert_eq!(rows.items.iter().map(|row| row["n"]).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }
}

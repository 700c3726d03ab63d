//! What the kinds of formats with a schema have in common: their keys, and how these become readers and writers.

/// Defines the kind `$name` of a format, by its reader and its encoder. `by_extension`: whether the extension of an output
/// compresses the whole.
macro_rules! typed_kind {
    (
        $kind:ident, $name:literal, $reader:ident, $columns:ident,
        reads: { $(#[$reads:meta])* },
        restarts: $restarts:literal,
        writes: { $(#[$writes:meta])* },
        by_extension: $by_extension:literal,
    ) => {
        #[doc = concat!("The kind `", $name, "`.")]
        pub(crate) struct $kind;

        $(#[$reads])*
        #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct ReaderKeys {
            /// Path or URL of the file, or of all files by a pattern in the name: `*` matches any characters, `?` one.
            path: crate::key::Text,
            /// The columns that are read. Default: all.
            columns: Option<Vec<String>>,
            /// Ranges `{ column, from, to }`: only rows with these values are read. Default: all.
            #[serde(default)]
            only: Vec<crate::format::typed::keys::Range>,
            /// A field that gets the path of the file.
            file_field: Option<String>,
            /// What a restart does when the file has changed: `refuse` or `continue`. Default: `refuse`.
            if_changed: Option<crate::key::At<crate::transport::IfChanged>>,
        }

        $(#[$writes])*
        #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct WriterKeys {
            /// Path or URL of the file.
            path: crate::key::Text,
            /// The columns in their order. A value that does not fit its column exactly is an error.
            columns: crate::key::At<Vec<crate::format::typed::keys::Column>>,
        }

        impl crate::kind::ItemKind for $kind {
            fn name(&self) -> &'static str {
                $name
            }

            fn schema(&self) -> crate::kind::KindSchema {
                crate::kind::KindSchema::default()
                    .reader::<ReaderKeys>()
                    .reader_restarts($restarts)
                    .writer::<WriterKeys>()
                    .writer_restarts(crate::format::CUT_BACK)
            }

            fn reader(
                &self,
                keys: crate::key::Keys<'_>,
                cx: &crate::kind::BuildContext<'_>,
            ) -> Result<crate::kind::MakeReader, crate::key::Problem> {
                let ReaderKeys { path, columns, only, file_field, if_changed } = keys.parse()?;
                let only = crate::format::typed::keys::ranges(&only, cx)?;
                let fields = columns.clone();
                crate::files::of_files(cx, &path, file_field.as_deref(), fields, move |source, scope| {
                    let mut reader = $reader::<crate::record::Record>::decoding(source, Ok);
                    reader.settings.columns.clone_from(&columns);
                    reader.settings.only = only(scope)?;
                    reader.settings.may_have_changed =
                        crate::transport::IfChanged::continues(if_changed.as_ref());
                    Ok(crate::reader::Reads::with_fields(reader, |reader| {
                        let names = reader.open.as_ref().map(|open| &open.names);
                        Ok(names.map(|names| names.iter().map(ToString::to_string).collect()))
                    }))
                })
            }

            fn writer(
                &self,
                keys: crate::key::Keys<'_>,
                cx: &crate::kind::BuildContext<'_>,
            ) -> Result<crate::kind::Make<crate::writer::BoxedWriter>, crate::key::Problem> {
                let WriterKeys { path, columns } = keys.parse()?;
                let known = crate::format::typed::keys::columns(columns.get_ref());
                let encode = known
                    .and_then($columns::new)
                    .map_err(|message| crate::key::Problem::at(&columns, message))?;
                let path = cx.output_location(&path)?;
                Ok(Box::new(move |scope| {
                    let writer = path(scope)?.writer(encode.clone());
                    Ok(crate::writer::BoxedWriter::new(match $by_extension {
                        true => writer,
                        false => writer.compressed(None),
                    }))
                }))
            }
        }
    };
}

pub(crate) use typed_kind;

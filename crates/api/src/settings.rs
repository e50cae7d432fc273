//! Settings that can explain themselves: their doc comments become the sample configuration.

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// The lines of its doc comment, each with its leading blank. The first text in double quotes is the example that
    /// a setting without default is shown with.
    pub docs: &'static [&'static str],
}

/// A struct of settings declared with [`documented!`](crate::documented).
pub trait Documented {
    /// The lines of the doc comment of the whole.
    const ABOUT: &'static [&'static str];
    /// Its own settings, in order; sections are left out.
    const FIELDS: &'static [Field];
    /// Its sections and their settings.
    const SECTIONS: &'static [(&'static str, &'static [Field])];
}

/// Declares a struct of settings and implements [`Documented`](crate::settings::Documented) for it. Attributes come
/// in the order doc comment, `derive`, `serde`; fields that are structs of settings themselves stand under `sections`.
#[macro_export]
macro_rules! documented {
    (
        $(#[doc = $about:literal])*
        $(#[derive $derive:tt])*
        $(#[serde $serde:tt])*
        $vis:vis struct $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $(#[serde $field_serde:tt])*
                $field_vis:vis $field:ident: $type:ty
            ),* $(,)?
        }
        $(sections {
            $(
                $(#[doc = $section_doc:literal])*
                $section_vis:vis $section:ident: $section_type:ty
            ),* $(,)?
        })?
    ) => {
        $(#[doc = $about])*
        $(#[derive $derive])*
        $(#[serde $serde])*
        $vis struct $name {
            $(
                $(#[doc = $doc])*
                $(#[serde $field_serde])*
                $field_vis $field: $type,
            )*
            $($(
                $(#[doc = $section_doc])*
                $section_vis $section: $section_type,
            )*)?
        }

        impl $crate::settings::Documented for $name {
            const ABOUT: &'static [&'static str] = &[$($about),*];
            const FIELDS: &'static [$crate::settings::Field] = &[$($crate::settings::Field {
                name: stringify!($field),
                docs: &[$($doc),*],
            }),*];
            const SECTIONS: &'static [(&'static str, &'static [$crate::settings::Field])] = &[$($((
                stringify!($section),
                <$section_type as $crate::settings::Documented>::FIELDS,
            )),*)?];
        }
    };
}

#[cfg(test)]
mod tests {
    use super::Documented;

    documented! {
        /// Pace.
        #[derive(Clone, Debug)]
        struct Pace {
            /// Steps a second.
            steps: u32,
        }
    }

    documented! {
        /// A walk.
        /// Two lines.
        #[derive(Clone, Debug)]
        struct Walk {
            /// Where to, such as "home".
            to: Option<String>,
        }
        sections {
            /// How.
            pace: Pace,
        }
    }

    #[test]
    fn doc_comments_can_be_read_at_run_time() {
        let walk = Walk {
            to: None,
            pace: Pace { steps: 2 },
        };
        assert_eq!((walk.to, walk.pace.steps), (None, 2));
        assert_eq!(Walk::ABOUT, [" A walk.", " Two lines."]);
        assert_eq!(Walk::FIELDS[0].name, "to");
        assert_eq!(Walk::FIELDS[0].docs, [" Where to, such as \"home\"."]);
        assert_eq!(Walk::SECTIONS[0].0, "pace");
        assert_eq!(Walk::SECTIONS[0].1, Pace::FIELDS);
    }
}

//! The page's files, within this program: nothing is read from a disk, and nothing asked of another host.

/// Path, type and content of each.
pub const ASSETS: [(&str, &str, &str); 10] = [
    ("/", HTML, include_str!("web/index.html")),
    ("/page.css", CSS, include_str!("web/page.css")),
    ("/icon.svg", "image/svg+xml", include_str!("web/icon.svg")),
    ("/page.js", JS, include_str!("web/page.js")),
    ("/ask.js", JS, include_str!("web/ask.js")),
    ("/chart.js", JS, include_str!("web/chart.js")),
    ("/history.js", JS, include_str!("web/history.js")),
    ("/number.js", JS, include_str!("web/number.js")),
    ("/statement.js", JS, include_str!("web/statement.js")),
    ("/table.js", JS, include_str!("web/table.js")),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// A file by its path.
pub fn find(path: &str) -> Option<(&'static str, &'static str)> {
    let found = ASSETS.iter().find(|asset| asset.0 == path)?;
    Some((found.1, found.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_name_each_other_and_no_other_host() {
        for (path, _, text) in ASSETS {
            let addresses = text.matches("://").count();
            let namespaces = text.matches("http://www.w3.org/2000/svg").count();
            assert_eq!(addresses, namespaces, "{path} names a host");
            for inline in [
                " style=",
                "<style",
                "onclick",
                "innerHTML",
                "eval(",
                "javascript:",
            ] {
                assert!(!text.contains(inline), "{path}: {inline}");
            }
            for rest in text.split("from \"./").skip(1) {
                let name = rest.split('"').next().unwrap_or_default();
                assert!(find(&format!("/{name}")).is_some(), "{path}: {name}");
            }
        }
        let (_, html) = find("/").expect("the page");
        assert_eq!(html.matches("<script").count(), 1);
        for rest in html.split("=\"/").skip(1) {
            let name = rest.split('"').next().unwrap_or_default();
            assert!(find(&format!("/{name}")).is_some(), "{name}");
        }
    }
}

package davfs

import (
	"path"
	"strings"
)

// contentType is the media type of a file by its name. The table is our own:
// the host's differs from machine to machine, and looking into a file would
// open it.
func contentType(name string) string {
	ext := path.Ext(name)
	if len(ext) > 1 {
		if t, ok := contentTypes[strings.ToLower(ext[1:])]; ok {
			return t
		}
	}
	return "application/octet-stream"
}

// contentTypes is from extension to media type, as IANA registers them where
// it does.
var contentTypes = map[string]string{
	"7z": "application/x-7z-compressed", "aac": "audio/aac", "avif": "image/avif", "avi": "video/x-msvideo",
	"bmp": "image/bmp", "bz2": "application/x-bzip2", "c": "text/plain; charset=utf-8",
	"conf": "text/plain; charset=utf-8", "css": "text/css; charset=utf-8", "csv": "text/csv; charset=utf-8",
	"deb": "application/vnd.debian.binary-package", "doc": "application/msword",
	"docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
	"eml":  "message/rfc822", "epub": "application/epub+zip", "flac": "audio/flac", "gif": "image/gif",
	"go": "text/plain; charset=utf-8", "gz": "application/gzip", "h": "text/plain; charset=utf-8",
	"heic": "image/heic", "htm": "text/html; charset=utf-8", "html": "text/html; charset=utf-8",
	"ico": "image/vnd.microsoft.icon", "ics": "text/calendar; charset=utf-8", "iso": "application/x-iso9660-image",
	"jar": "application/java-archive", "jpeg": "image/jpeg", "jpg": "image/jpeg", "js": "text/javascript; charset=utf-8",
	"json": "application/json", "jsonl": "application/jsonl", "log": "text/plain; charset=utf-8",
	"m3u8": "application/vnd.apple.mpegurl", "m4a": "audio/mp4", "m4v": "video/mp4",
	"md": "text/markdown; charset=utf-8", "mid": "audio/midi", "mjs": "text/javascript; charset=utf-8",
	"mkv": "video/matroska", "mov": "video/quicktime", "mp3": "audio/mpeg", "mp4": "video/mp4",
	"mpeg": "video/mpeg", "mpg": "video/mpeg", "odp": "application/vnd.oasis.opendocument.presentation",
	"ods": "application/vnd.oasis.opendocument.spreadsheet", "odt": "application/vnd.oasis.opendocument.text",
	"oga": "audio/ogg", "ogg": "audio/ogg", "ogv": "video/ogg", "opus": "audio/ogg", "otf": "font/otf",
	"parquet": "application/vnd.apache.parquet", "pdf": "application/pdf", "png": "image/png",
	"ppt":  "application/vnd.ms-powerpoint",
	"pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
	"ps":   "application/postscript", "psd": "image/vnd.adobe.photoshop", "py": "text/plain; charset=utf-8",
	"rar": "application/vnd.rar", "rs": "text/plain; charset=utf-8", "rtf": "application/rtf",
	"sh": "text/plain; charset=utf-8", "sqlite": "application/vnd.sqlite3", "srt": "application/x-subrip",
	"svg": "image/svg+xml", "tar": "application/x-tar", "tex": "text/plain; charset=utf-8", "tgz": "application/gzip",
	"tif": "image/tiff", "tiff": "image/tiff", "toml": "application/toml", "ts": "video/mp2t", "ttf": "font/ttf",
	"txt": "text/plain; charset=utf-8", "vcf": "text/vcard; charset=utf-8", "vtt": "text/vtt; charset=utf-8",
	"wasm": "application/wasm", "wav": "audio/vnd.wave", "weba": "audio/webm", "webm": "video/webm",
	"webp": "image/webp", "woff": "font/woff", "woff2": "font/woff2", "xhtml": "application/xhtml+xml",
	"xls": "application/vnd.ms-excel", "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
	"xml": "text/xml; charset=utf-8", "xz": "application/x-xz", "yaml": "application/yaml", "yml": "application/yaml",
	"zip": "application/zip", "zst": "application/zstd",
}

package davfs

import (
	"strconv"
	"time"
)

// appendActiveLock appends a lock as DAV:lockdiscovery tells of it (RFC 4918,
// sections 14.1 and 15.8), with the time that is left of it. The prefix D is
// bound around it.
func appendActiveLock(dst []byte, prefix Path, l Lock) []byte {
	scope, depth := "<D:exclusive/>", "0"
	if l.Shared {
		scope = "<D:shared/>"
	}
	if l.Infinite {
		depth = "infinity"
	}
	left := max((time.Until(l.Expires)+time.Second-1)/time.Second, 1)
	dst = append(dst, "<D:activelock><D:locktype><D:write/></D:locktype><D:lockscope>"...)
	dst = append(dst, scope...)
	dst = append(dst, "</D:lockscope><D:depth>"...)
	dst = append(dst, depth...)
	dst = append(dst, "</D:depth>"...)
	if l.Owner != "" {
		dst = append(dst, "<D:owner>"...)
		dst = append(dst, l.Owner...) // XML that stands alone, see parseLockInfo
		dst = append(dst, "</D:owner>"...)
	}
	dst = append(dst, "<D:timeout>Second-"...)
	dst = strconv.AppendInt(dst, int64(left), 10)
	dst = append(dst, "</D:timeout><D:locktoken><D:href>"...)
	dst = appendXMLText(dst, l.Token)
	dst = append(dst, "</D:href></D:locktoken><D:lockroot><D:href>"...)
	dst = appendHref(dst, prefix, l.Root, l.Collection)
	return append(dst, "</D:href></D:lockroot></D:activelock>"...)
}

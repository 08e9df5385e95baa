package overlay_test
import ("os";"testing";"strings";"path/filepath";"overdav/overlay/overlaytest")
func fds() []string { ents,_:=os.ReadDir("/proc/self/fd"); var l []string; for _,e:=range ents { x,_:=os.Readlink("/proc/self/fd/"+e.Name()); if strings.Contains(x,"overlaytest") {l=append(l,x)} }; return l }
func TestZZ(t *testing.T) {
	disk := overlaytest.Filesystem(t, "tmpfs")
	n:=0
	for _, c := range faultCases() {
		t.Run(c.name, func(t *testing.T) {
			r := faultRun{t: t, c: c, dir: overlaytest.Within(disk)}
			r.all()
		})
		if l:=fds(); len(l)!=n { t.Logf("%s: %d -> %d: %s", c.name, n, len(l), filepath.Base(strings.Join(l[len(l)-1:],"")));for _,x:=range l[n:]{t.Log(x)}; n=len(l)
 if n > 12 {break} }
	}
}

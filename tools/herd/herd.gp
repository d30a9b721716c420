# Two pictures of a herd from the CSV files of holdfast-herd: dials a second, and the share of links up.
#
#   gnuplot -e "prefix = 'build/herd/kill-'; heading = 'killed'" tools/herd/herd.gp
csv(name) = prefix.name.'.csv'
summary = csv('summary')
field(name) = system(sprintf("awk -F, 'NR == 1 { for (i = 1; i <= NF; ++i) if ($i == \"%s\") f = i } NR == 2 { print $f }' %s", name, summary))
# Bins as steps: two points wherever the height changes, and one at the end.
steps(file) = sprintf("< awk -F, 'NR == 1 { next } { x = $1 / 1000; h = $2 > 0 ? $2 : 0.7 } h != y { if (NR > 2) print x, y; print x, h; y = h } END { print x, y }' %s", file)
policies = system("tail -n +2 ".summary." | cut -d, -f1 | tr '\n' ' '")
count = words(policies)
links = int(field('links'))
outage = int(field('outage_ms')) / 1000.0
rate = int(field('accept_rate'))
bin = real(system(sprintf("awk -F, 'NR == 3 { print $1 / 1000 }' %s", csv(word(policies, 1)))))
end = outage + 75

set border 3 linecolor '#808080'
set tics nomirror textcolor '#404040'
set xrange [-0.03 * end : end]
array color[8] = ['#d62728', '#ff7f0e', '#9467bd', '#1f77b4', '#17becf', '#2ca02c', '#8c564b', '#404040']

# Dials a second: a panel for each policy, all of them with the same logarithmic axis.
rows = (count + 1) / 2
set terminal svg size 900, 70 + 165 * rows font 'sans-serif,12' background '#ffffff'
set output prefix.'dials.svg'
set logscale y
set yrange [0.7 : 20 * links]
set ytics ('1' 1, '100' 100, '10 k' 1e4, '1 M' 1e6)
set xtics outage / 2
set multiplot layout rows, 2 title sprintf("Dials a second of %d links: %s", links, heading) font ',14' \
  margins 0.07, 0.98, 0.07, 0.93 spacing 0.07, 0.05
set arrow 1 from outage, 0.7 to outage, 20 * links nohead linecolor '#808080' dashtype 2
# Of another grey, or both become one path, and some viewers dash what lies between its parts.
set arrow 2 from -0.03 * end, rate to end, rate nohead linecolor '#888888' dashtype 3
do for [i = 1 : count] {
  set label 1 word(policies, i) at graph 0.985, graph 0.9 right font ',13' textcolor rgb color[(i - 1) % 8 + 1]
  if (i == 1) { set label 2 'server back' at outage, graph 0.9 offset 0.5, 0 font ',10' textcolor '#606060' }
  if (i == 2) { unset label 2 }
  if (i == count) { set label 3 'what the server takes in' at end, rate right offset 0, 0.6 font ',10' textcolor '#606060' }
  if (i > count - 2) { set xlabel 'seconds since the loss' offset 0, 0.5 } else { unset xlabel }
  plot steps(csv(word(policies, i))) using 1:2 with filledcurves y1=0.7 fillstyle solid 0.75 noborder linecolor rgb color[(i - 1) % 8 + 1] notitle
}
unset multiplot
unset label
unset arrow

# The share of links up: all policies in one.
set datafile separator ','
set terminal svg size 900, 400 font 'sans-serif,12' background '#ffffff'
set output prefix.'up.svg'
unset logscale y
set grid linecolor '#e4e4e4'
set ytics autofreq
set xtics autofreq
set format y '%g %%'
set yrange [0 : 102]
set xrange [outage - 2 : end]
set xlabel sprintf('seconds since the loss; the server is back at %g', outage) offset 0, 0
set title sprintf("Links up, of %d: %s", links, heading) font ',14'
set key outside right center noautotitle
plot for [i = 1 : count] csv(word(policies, i)) using ($1 / 1000 + bin):($4 * 100.0 / links) skip 1 with lines linewidth 2 linecolor rgb color[(i - 1) % 8 + 1] title word(policies, i)
